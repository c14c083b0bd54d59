"""A TLS server for the agent suite: port 8080, HTTP/1.1 with keep-alive in one thread, the certificate beside this file.

Answers every request but /stall, which it reads and forgets. A client that closes is closed, without a word. At SIGTERM `notify` says close_notify on
each connection and closes it; `exit` leaves both to the end of the process.
"""

import os
import selectors
import signal
import socket
import ssl
import sys

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"
# Seconds for a handshake; probes only connect and leave.
HANDSHAKE = 5

selector = selectors.DefaultSelector()
connections = set()


def accept(listener, context):
    plain, _ = listener.accept()
    plain.settimeout(HANDSHAKE)
    try:
        connection = context.wrap_socket(plain, server_side=True)
    except OSError:
        plain.close()
        return
    connection.setblocking(False)
    connections.add(connection)
    selector.register(connection, selectors.EVENT_READ)


def serve(connection):
    try:
        request = connection.recv(65536)
    except ssl.SSLWantReadError:
        return
    except OSError:
        request = b""
    if not request:
        selector.unregister(connection)
        connections.discard(connection)
        connection.close()
    elif not request.startswith(b"GET /stall "):
        connection.sendall(ANSWER)


def end(style):
    for connection in connections if style == "notify" else ():
        try:
            connection.unwrap()
        except OSError:
            # It would wait for the client's close_notify.
            pass
        connection.close()
    os._exit(0)


def main():
    style = sys.argv[1]
    if style not in ("notify", "exit"):
        sys.exit(f"{style!r} is neither notify nor exit")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.path.join(os.path.dirname(os.path.abspath(__file__)), "tls.pem"))
    listener = socket.create_server(("0.0.0.0", 8080), backlog=128)
    selector.register(listener, selectors.EVENT_READ)
    signal.signal(signal.SIGTERM, lambda *_: end(style))
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                accept(listener, context)
            else:
                serve(key.fileobj)


main()
