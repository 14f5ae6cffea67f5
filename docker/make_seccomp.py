"""Writes seccomp.json: the system calls that an encoder may make. All others are refused with EPERM.

The format is Docker's (https://docs.docker.com/engine/security/seccomp/); bubblewrap gets the same rules, compiled.
Only 64-bit ABIs are listed: with the 32-bit x86 ABI mapped, `socketcall` would go around the rule of AF_UNIX alone.

    python docker/make_seccomp.py > docker/seccomp.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

AF_UNIX = 1
ENOSYS = 38
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET: none of these bits may be set in clone's flags.
NEW_NAMESPACE_FLAGS = 0x00020000 | 0x7E000000

# Why each group is there, and its calls. A name that an architecture does not have is skipped there.
GROUPS: tuple[tuple[str, str], ...] = (
    (
        "files: read the submission and the libraries, write to /tmp",
        """
        access chdir chmod close close_range creat dup dup2 dup3 faccessat faccessat2 fadvise64 fallocate fchdir fchmod
        fchmodat fcntl fdatasync fgetxattr flock fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64
        getxattr lgetxattr link linkat listxattr lseek lstat mkdir mkdirat newfstatat open openat openat2 pread64 preadv
        preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv rename renameat renameat2 rmdir stat
        statfs statx symlink symlinkat sync_file_range truncate umask unlink unlinkat utime utimensat utimes write
        writev
        """,
    ),
    ("copying inside the kernel, which shutil tries first", "copy_file_range sendfile"),
    (
        "memory: allocators, memory-mapped weights, generated code of math libraries",
        """
        brk madvise membarrier memfd_create mincore mlock mlock2 mmap mprotect mremap msync munlock munmap
        """,
    ),
    (
        "threads and processes of the encoder itself (clone has a rule of its own)",
        """
        arch_prctl capget execve execveat exit exit_group fork futex futex_waitv get_robust_list getcpu getpgid getpgrp
        getpid getppid getpriority getsid gettid prctl rseq sched_get_priority_max sched_get_priority_min
        sched_getaffinity sched_getparam sched_getscheduler sched_setaffinity sched_yield set_robust_list
        set_tid_address setpgid setsid vfork wait4 waitid
        """,
    ),
    (
        "signals: Python, abort(), thread pools; they reach the sandbox's own processes only",
        """
        alarm getitimer kill pause restart_syscall rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
        rt_sigreturn rt_sigsuspend rt_sigtimedwait setitimer sigaltstack tgkill tkill
        """,
    ),
    (
        "clocks and timers: sleeping, timeouts, and measuring time",
        """
        clock_getres clock_gettime clock_nanosleep gettimeofday nanosleep time timer_create timer_delete
        timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times
        """,
    ),
    (
        "waiting for several things at once",
        """
        epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 pidfd_open pipe pipe2
        poll ppoll pselect6 select signalfd signalfd4
        """,
    ),
    (
        "using the one socket that leads to the client (opening one has a rule of its own)",
        """
        accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg
        sendmsg sendto setsockopt shutdown
        """,
    ),
    (
        "who and where am I; setting it serves the server's step down from root, and needs rights that it then lacks",
        """
        getegid geteuid getgid getgroups getrandom getresgid getresuid getrlimit getrusage getuid prlimit64 setgid
        setgroups setresgid setresuid setrlimit setuid sysinfo uname
        """,
    ),
    ("devices: isatty(), and the drivers of a GPU where the organizer hands one in", "ioctl"),
)


def profile() -> dict[str, Any]:
    """The whole profile as Docker reads it."""
    rules: list[dict[str, Any]] = [
        {"names": names.split(), "action": "SCMP_ACT_ALLOW", "comment": reason} for reason, names in GROUPS
    ]
    rules.append(
        {
            "names": ["clone"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": NEW_NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
            "comment": "threads and children, but no new namespaces",
        }
    )
    rules.append(
        {
            "names": ["clone3"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": ENOSYS,
            "comment": "its flags lie in memory where a filter cannot look; ENOSYS makes the C library use clone",
        }
    )
    rules.append(
        {
            "names": ["socket", "socketpair"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": AF_UNIX, "valueTwo": 0, "op": "SCMP_CMP_EQ"}],
            "comment": "local sockets alone: no IP, no netlink, no AF_VSOCK (which reaches a virtual machine's host)",
        }
    )
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []},
        ],
        "syscalls": rules,
    }


if __name__ == "__main__":
    json.dump(profile(), sys.stdout, indent=1)
    sys.stdout.write("\n")
