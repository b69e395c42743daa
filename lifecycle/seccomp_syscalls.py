"""Table of lifecycle: the system calls that Docker's default profile allows.

The set is moby's (v28.5.2, github.com/moby/profiles/seccomp 0.1.0), ordered here by what the
calls are about. What is missing is refused with EPERM: keyrings, swap, kernel modules, the clock,
mounts and namespaces without their capability, io_uring, userfaultfd, and others that are old or
dangerous.
"""

from __future__ import annotations

FILES = """
    access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3
    faccessat faccessat2 fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown
    fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr
    fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd
    getdents getdents64 getxattr getxattrat ioctl lchown lchown32 lgetxattr link linkat listmount
    listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 mkdir
    mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 pread64 preadv preadv2
    pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv removexattr removexattrat
    rename renameat renameat2 rmdir sendfile sendfile64 setxattr setxattrat splice stat stat64
    statfs statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs tee truncate
    truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev
"""
READINESS = """
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
    epoll_wait_old eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup
    io_submit _newselect pipe pipe2 poll ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd
    signalfd4
"""
MEMORY = """
    brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2
    mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free
    pkey_mprotect process_mrelease remap_file_pages
"""
PROCESSES = """
    execve execveat exit exit_group fork getcpu getpgid getpgrp getpid getppid getpriority getrlimit
    getrusage getsid gettid ioprio_get ioprio_set kill pause pidfd_open pidfd_send_signal prctl
    prlimit64 restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
    sched_getaffinity sched_getattr sched_get_priority_max sched_get_priority_min sched_getparam
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity
    sched_setattr sched_setparam sched_setscheduler sched_yield setpgid setpriority setrlimit setsid
    set_tid_address sigaltstack sigprocmask sigreturn tgkill tkill ugetrlimit uretprobe vfork wait4
    waitid waitpid
"""
THREADS = """
    futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake get_robust_list
    get_thread_area set_robust_list set_thread_area
"""
CREDENTIALS = """
    capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32
    getresgid getresgid32 getresuid getresuid32 getuid getuid32 landlock_add_rule
    landlock_create_ruleset landlock_restrict_self seccomp setfsgid setfsgid32 setfsuid setfsuid32
    setgid setgid32 setgroups setgroups32 setregid setregid32 setresgid setresgid32 setresuid
    setresuid32 setreuid setreuid32 setuid setuid32
"""
SOCKETS = """
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg
    recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair
"""
IPC = """
    ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
    mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop
    semtimedop_time64 shmat shmctl shmdt shmget
"""
TIME = """
    adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep
    setitimer time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64
    timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
    timerfd_settime64 times
"""
SYSTEM = "getrandom riscv_hwprobe sysinfo uname"

ALWAYS = (
    *(FILES, READINESS, MEMORY, PROCESSES, THREADS),
    *(CREDENTIALS, SOCKETS, IPC, TIME, SYSTEM),
)

TRACING = "process_vm_readv process_vm_writev ptrace"

BY_ARCH: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset(["ppc64le"]), "sync_file_range2 swapcontext"),
    (
        frozenset(["arm", "arm64"]),
        "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
    ),
    (frozenset(["amd64", "x32"]), "arch_prctl"),
    (frozenset(["amd64", "x32", "x86"]), "modify_ldt"),
    (frozenset(["s390", "s390x"]), "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"),
    (frozenset(["riscv64"]), "riscv_flush_icache"),
)

# Without their capability these would fail in the kernel too, were it free of errors.
BY_CAPABILITY = {
    "CAP_BPF": "bpf",
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_PERFMON": "perf_event_open",
    "CAP_SYSLOG": "syslog",
    "CAP_SYS_ADMIN": """
        bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie
        lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount
        open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog
        umount umount2 unshare
    """,
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module finit_module init_module",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise " + TRACING,
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_TIME": "clock_settime clock_settime64 settimeofday stime",
    "CAP_SYS_TTY_CONFIG": "vhangup",
}

# PER_LINUX, PER_LINUX32, the same two with UNAME26, and "tell me the current one"
# (sys/personality.h).
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

# CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}: all must be clear (linux/sched.h).
CLONE_NAMESPACE_FLAGS = 0x7E020000
