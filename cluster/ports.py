"""Ports: picking free ones, and saying who holds one that is taken."""

import contextlib
import random
import socket

import psutil

from cluster.errors import ClusterError, PortTaken

# Below Linux's ephemeral range: an outgoing connection cannot take one of these between picking and binding.
PICK_FROM = range(20_000, 32_000)
COMMAND_CHARACTERS_MAX = 120


def is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` on every interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """``count`` different free ports. Raises ClusterError where there are not as many."""
    found: list[int] = []
    for port in random.sample(PICK_FROM, len(PICK_FROM)):
        if len(found) == count:
            break
        if is_free(port):
            found.append(port)
    if len(found) < count:
        raise ClusterError(f"there are not {count} free ports between {PICK_FROM.start} and {PICK_FROM.stop}")
    return found


def free_block(size: int) -> range:
    """``size`` free ports in a row."""
    starts = list(range(PICK_FROM.start, PICK_FROM.stop - size, size))
    for start in random.sample(starts, len(starts)):
        block = range(start, start + size)
        if all(is_free(port) for port in block):
            return block
    raise ClusterError(f"there are no {size} free ports in a row between {PICK_FROM.start} and {PICK_FROM.stop}")


def require_free(part: str, port: int, remedy: str) -> None:
    """Raises PortTaken that names the holder. ``remedy`` says how to give the part another port."""
    if not is_free(port):
        raise PortTaken(f"port {port}, which {part} needs, is taken by {holder_of(port)}: end it, or {remedy}")


def holder_of(port: int) -> str:
    """Pid and command of whoever listens on ``port``, as far as this user may see."""
    with contextlib.suppress(psutil.AccessDenied):
        for connection in psutil.net_connections(kind="tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr[1:2] == (port,)
            if listens and connection.pid:
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    command = " ".join(psutil.Process(connection.pid).cmdline())
                    return f"pid {connection.pid} ({command[:COMMAND_CHARACTERS_MAX]})"
    return "another user's process"
