"""TLS clients for the agent suite: `HOST PORT MODE:VERSION:COUNT...`, without any retry.

`leave` asks, is answered and closes as TLS has it. `idle` asks, is answered, waits for the server's end and answers that. `unused` does the same
without asking. `stalled` asks for what is never answered. `blind` asks, is answered, and asks again, without looking, when a line comes in. Says
`ready` when every connection is as it should be, and at the end one line of JSON for each: its own address, its mode, whether it lost a request.
"""

import json
import socket
import ssl
import sys

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
# Seconds for anything.
SOON = 60


def connect(address, version):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = VERSIONS[version]
    connection = context.wrap_socket(socket.create_connection(address, SOON))
    assert connection.version() == f"TLSv{version}", connection.version()
    return connection


def ask(connection, path):
    request = f"GET {path} HTTP/1.1\r\nHost: tls\r\nUser-Agent: drainscope-test\r\nAccept: */*\r\n\r\n"
    connection.sendall(request.encode())


def is_answered(connection):
    try:
        return connection.recv(65536).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


def leave(connection):
    try:
        connection.unwrap()
    except OSError:
        # The server closed without a word.
        pass
    connection.close()


def begin(connection, mode):
    if mode in ("leave", "idle", "blind"):
        ask(connection, "/")
        assert is_answered(connection), f"{mode}: not answered"
    elif mode == "stalled":
        ask(connection, "/stall")
    if mode == "leave":
        leave(connection)


def finish(connection, mode):
    """Whether it lost a request."""
    if mode == "leave":
        return False
    if mode == "blind":
        try:
            ask(connection, "/")
        except OSError:
            return True
    answered = is_answered(connection)
    assert not answered, f"{mode}: answered"
    leave(connection)
    return mode in ("stalled", "blind")


def main():
    address = (sys.argv[1], int(sys.argv[2]))
    clients = []
    for group in sys.argv[3:]:
        mode, version, count = group.split(":")
        for _ in range(int(count)):
            connection = connect(address, version)
            local = connection.getsockname()
            begin(connection, mode)
            clients.append((connection, mode, local))
    print("ready", flush=True)
    # Those that look first see the server's end while the blind ones wait.
    clients.sort(key=lambda client: client[1] == "blind")
    is_told = False
    for connection, mode, local in clients:
        if mode == "blind" and not is_told:
            sys.stdin.readline()
            is_told = True
        lost = finish(connection, mode)
        print(json.dumps({"local": f"{local[0]}:{local[1]}", "mode": mode, "lost": lost}), flush=True)


main()
