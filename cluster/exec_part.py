"""Becomes a part: ``python -I -S exec_part.py PARENT SIGNAL USER COMMAND…``.

It raises the limit of open files, asks the kernel to send SIGNAL when the supervisor (PARENT) dies, changes to USER
(``-`` for no change), and lets COMMAND take its place under the same pid. A small program rather than code between fork
and exec, which is unsafe in a process with threads. Standard library only, and no import of ours: it runs isolated.
"""

import ctypes
import os
import pwd
import resource
import sys

PR_SET_PDEATHSIG = 1
PARENT_GONE = 1
# Every open stream takes files; many systems allow a thousand unless asked.
FILES_MAX = 65_536


def main(parent: int, how: int, user: str, command: list[str]) -> None:
    """Does not return."""
    files, files_allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if files_allowed == resource.RLIM_INFINITY else min(FILES_MAX, files_allowed)
    if files != resource.RLIM_INFINITY and files < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, files_allowed))
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
