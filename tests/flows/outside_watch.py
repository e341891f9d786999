"""A piece of program that writes down whom a Python process asks or looks up outside this machine."""

OUTSIDE = "TEST_OUTSIDE"
"""Environment variable that names the file which it writes to; there is none as long as nobody outside is asked."""

WATCH = """
import ipaddress, os, sys
def is_outside(host):
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host not in ("localhost", "")
def watch(event, arguments):
    host = None
    if event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname") and arguments[0]:
        host = arguments[0] if isinstance(arguments[0], str) else arguments[0].decode()
    if host is not None and is_outside(host):
        with open(os.environ["TEST_OUTSIDE"], "a") as log:
            log.write(f"{event} {host}\\n")
sys.addaudithook(watch)
"""
