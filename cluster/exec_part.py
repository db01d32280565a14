"""Becomes a part: ``python -I -S exec_part.py PARENT SIGNAL USER COMMAND…``.

It asks the kernel to send SIGNAL when the supervisor (PARENT) dies, changes to USER (``-`` for no change), and lets
COMMAND take its place under the same pid. A small program rather than code between fork and exec, which is unsafe in a
process with threads. Standard library only, and no import of ours: it runs isolated.
"""

import ctypes
import os
import pwd
import sys

PR_SET_PDEATHSIG = 1
PARENT_GONE = 1


def main(parent: int, how: int, user: str, command: list[str]) -> None:
    """Does not return."""
    if user != "-":
        account = pwd.getpwnam(user)
        os.initgroups(user, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    if sys.platform == "linux":
        # After the change of user, which clears it.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, how)
        if os.getppid() != parent:
            sys.exit(PARENT_GONE)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
