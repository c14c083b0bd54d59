"""An http.server as a row of `cargo xtask accuracy`: port 8080, a thread for each connection, HTTP/1.1 with keep-alive.

Answers everything with a small body; `?delay_ms=` holds it back. `exit` ends the interpreter at SIGTERM, whatever is pending; `shutdown` stops
accepting, closes the listener, answers what comes with `Connection: close`, and exits when every connection is over.
"""

import os
import signal
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODY = ("hello from " + os.environ.get("POD_NAME", "python") + "\n").encode()
draining = threading.Event()


class Server(ThreadingHTTPServer):
    # The default, 5, overflows whenever the accepting thread waits for the CPU: SYNs that are sent again and answered.
    request_queue_size = 128


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body leave in one write.
    wbufsize = -1
    # Seconds for which an idle connection is kept: many times what lies between two requests of a client.
    timeout = 5

    def answer(self):
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0:
            piece = self.rfile.read(min(left, 65536))
            if not piece:
                self.close_connection = True
                return
            left -= len(piece)
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        time.sleep(int(query.get("delay_ms", ["0"])[0]) / 1000)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(BODY)))
        if draining.is_set():
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(BODY)

    do_GET = answer
    do_POST = answer

    def log_message(self, *_):
        pass


def main():
    style = sys.argv[1]
    server = Server(("", 8080), Handler)
    if style == "exit":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        server.serve_forever()
    elif style == "shutdown":
        # The threads of connections are waited for by server_close().
        server.daemon_threads = False

        def drain(*_):
            draining.set()
            # shutdown() waits for the loop that this handler has interrupted.
            threading.Thread(target=server.shutdown).start()

        signal.signal(signal.SIGTERM, drain)
        server.serve_forever(poll_interval=0.05)
        server.server_close()
    else:
        sys.exit(f"{style!r} is neither exit nor shutdown")


main()
