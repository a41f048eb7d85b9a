"""Which system calls a container may make, by topic.

Whatever is not named fails with EPERM: kernel modules, mounts and namespaces, clocks, keyrings (not
namespaced), io_uring and userfaultfd (sources of many exploits), swap, reboot, I/O ports, obsolete calls.
Calls that belong to a capability come with it. The choice is that of the profiles Docker and Podman ship, so
that what runs there runs here.

Names of all architectures stand together (``chown32`` is x86's, ``cacheflush`` arm's): each takes its own.
"""

from __future__ import annotations

_FILES = """
    access chdir chmod chown chown32 close close_range copy_file_range creat faccessat faccessat2 fallocate
    fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fstat fstat64 fstatat64 fstatfs fstatfs64
    ftruncate ftruncate64 futimesat getcwd getdents getdents64 lchown lchown32 link linkat listmount lstat
    lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 readlink readlinkat
    rename renameat renameat2 rmdir stat stat64 statfs statfs64 statmount statx symlink symlinkat truncate
    truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes fgetxattr flistxattr
    fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat llistxattr lremovexattr
    lsetxattr removexattr removexattrat setxattr setxattrat
"""
_IO = """
    _llseek arm_fadvise64_64 arm_sync_file_range dup dup2 dup3 fadvise64 fadvise64_64 fcntl fcntl64
    fdatasync flock fsync io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup
    io_submit ioctl lseek pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readv
    sendfile sendfile64 splice sync sync_file_range sync_file_range2 syncfs tee vmsplice write writev
    cachestat
"""
_WAITING = """
    _newselect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
    epoll_wait_old eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch pause poll ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4
"""
_MEMORY = """
    brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap
    mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
    remap_file_pages
"""
_PROCESSES = """
    arch_prctl breakpoint cacheflush execve execveat exit exit_group fork get_robust_list get_thread_area
    getcpu getpgid getpgrp getpid getppid getpriority getrlimit getrusage getsid gettid ioprio_get
    ioprio_set kill modify_ldt pidfd_open pidfd_send_signal prctl prlimit64 process_mrelease
    process_vm_readv process_vm_writev ptrace restart_syscall riscv_hwprobe rseq sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield set_robust_list set_thread_area set_tid_address set_tls setpgid
    setpriority setrlimit setsid tgkill tkill ugetrlimit uretprobe vfork wait4 waitid waitpid futex
    futex_requeue futex_time64 futex_wait futex_waitv futex_wake
"""
_CREDENTIALS = """
    capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid
    getresgid32 getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid
    setgid32 setgroups setgroups32 setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid
    setreuid32 setuid setuid32 landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp
"""
_SIGNALS = """
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaction sigaltstack signal sigpending sigprocmask sigreturn
    sigsuspend
"""
_TIME = """
    adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time
    timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
    timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times
"""
# socket is filtered by address family; 32-bit x86 has socketcall too, whose arguments no filter can see.
_NETWORK = """
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg
    recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair
"""
_IPC = """
    ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
    mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop
    semtimedop_time64 shmat shmctl shmdt shmget
"""
_SYSTEM = "getrandom sysinfo uname"

ALLOWED = frozenset(
    " ".join(
        (_FILES, _IO, _WAITING, _MEMORY, _PROCESSES, _CREDENTIALS, _SIGNALS, _TIME, _NETWORK, _IPC, _SYSTEM)
    ).split()
)

# What each capability adds. SYS_ADMIN also lifts the limits on clone and clone3.
BY_CAPABILITY = {
    "BPF": "bpf",
    "DAC_READ_SEARCH": "open_by_handle_at",
    "PERFMON": "perf_event_open",
    "SYSLOG": "syslog",
    "SYS_ADMIN": """
        bpf fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules
        lsm_set_self_attr mount mount_setattr move_mount open_tree open_tree_attr perf_event_open pivot_root
        quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare
    """,
    "SYS_BOOT": "reboot",
    "SYS_CHROOT": "chroot",
    "SYS_MODULE": "delete_module finit_module init_module",
    "SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "SYS_PACCT": "acct",
    "SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "SYS_RAWIO": "ioperm iopl",
    "SYS_TIME": "clock_settime clock_settime64 settimeofday stime",
    "SYS_TTY_CONFIG": "vhangup",
}


def allowed_names(capabilities: frozenset[str]) -> frozenset[str]:
    """Calls allowed without conditions to a container with these capabilities (as ``"SYS_ADMIN"``)."""
    return ALLOWED.union(*(BY_CAPABILITY[name].split() for name in capabilities & BY_CAPABILITY.keys()))
