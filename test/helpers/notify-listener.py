"""Binds the datagram socket that a service manager would listen on, says so, and prints what comes, a line each."""
import socket
import sys

address = sys.argv[1]
listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener.bind("\0" + address[1:] if address.startswith("@") else address)
print("bound", flush=True)
while True:
    print(listener.recv(4096).decode(), flush=True)
