"""A WSGI application as a row of `cargo xtask accuracy`, served by gunicorn with threads: any path, a small body; `?delay_ms=` holds it back."""

import os
import time
import urllib.parse

BODY = ("hello from " + os.environ.get("POD_NAME", "gunicorn") + "\n").encode()


def app(environ, start_response):
    source = environ["wsgi.input"]
    while source.read(65536):
        pass
    query = urllib.parse.parse_qs(environ.get("QUERY_STRING", ""))
    time.sleep(int(query.get("delay_ms", ["0"])[0]) / 1000)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))])
    return [BODY]
