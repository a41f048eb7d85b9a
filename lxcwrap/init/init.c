/*
 * The init of every container: starts one command the way it was asked for, reaps what is orphaned, forwards signals,
 * and ends as the command ends. Static, so that it runs in any image.
 *
 *   lxcwrap-init [-x] [-b] [-j FD,...] [-u USER[:GROUP]] [-G GROUP,...] [-C DIR] [-k MASK] [-t] [-s FILTER] [-f FD]
 *                -- COMMAND [ARG...]
 *   lxcwrap-init -w
 *
 *   -x  become the command instead of supervising it: for exec, and for containers without an init
 *   -b  the command boots a system: its cgroup becomes the root of those it sees, and with -t its terminal /dev/console
 *   -u  names or numbers, looked up in this root's /etc/passwd and /etc/group; default 0
 *   -G  further groups            -C  working directory, made if missing
 *   -j  descriptors of cgroups' `tasks` files to join, first of all
 *   -k  capabilities the command may have, in hex; the init itself needs more of them, to become the user
 *   -t  give the command a new terminal            -s  seccomp filter: a file of struct sock_filter
 *   -w  do nothing, as the command of a container that others enter
 *   -f  SOCK_SEQPACKET socket to report on, a packet each:
 *         "S"               first; sender's pid is the init's, or with -x the command's (the receiver sets SO_PASSCRED)
 *         "T"               with -t; carries the terminal's master side
 *         "E<errno> STAGE"  failed, in cgroup, user, tty, cwd, seccomp, exec or init
 *         "R"               without -x, at last: the command runs, if there was no E
 *       With -x the command runs when the socket ends without an E.
 *
 * Exit codes: the command's; 128 + signal that killed it; 127 no such command, 126 it cannot be run, 125 anything else.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

struct options {
    bool exec_only, tty, boots;
    char *user, *groups, *cwd, *filter, *cgroups, *capabilities, **argv;
};

struct user {
    uid_t uid;
    gid_t gid;
    const char *name, *home; /* name: NULL when /etc/passwd has no such entry */
};

static int status_fd = -1;
static gid_t groups[NGROUPS_MAX];
static size_t group_count;

/* --- reporting --------------------------------------------------------------------------------------------- */

static int report(const char *packet, int passed_fd)
{
    union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int))]; } control = {0};
    struct iovec iov = {.iov_base = (void *)packet, .iov_len = strlen(packet)};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

    if (passed_fd >= 0) {
        control.header = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.header), &passed_fd, sizeof(int));
        message.msg_control = &control;
        message.msg_controllen = sizeof(control);
    }
    return sendmsg(status_fd, &message, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

static _Noreturn void fail(const char *stage, const char *what, const char *subject, const char *reason)
{
    int error = errno;
    char packet[64];
    bool is_exec = strcmp(stage, "exec") == 0;

    snprintf(packet, sizeof(packet), "E%d %s", error, stage);
    report(packet, -1);
    dprintf(STDERR_FILENO, "lxcwrap: %s '%s': %s\n", what, subject, reason ? reason : strerror(error));
    _exit(!is_exec ? 125 : error == ENOENT ? 127 : 126);
}

static _Noreturn void not_found(const char *what, const char *subject, const char *reason)
{
    errno = ENOENT;
    fail("user", what, subject, reason);
}

/* --- users and groups: no NSS, because the image's C library is not ours ------------------------------------ */

/* The whole file as a string; empty when there is none. Whatever an image put there must not make us wait. */
static char *read_database(const char *path)
{
    struct stat st;
    char *text;
    ssize_t size;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return strdup("");
    text = malloc(st.st_size + 1);
    if (!text || (size = read(fd, text, st.st_size)) < 0)
        fail("user", "cannot read", path, NULL);
    text[size] = '\0';
    close(fd);
    return text;
}

static bool parse_id(const char *text, unsigned *id)
{
    char *end;
    unsigned long value;

    if (!text || *text < '0' || *text > '9')
        return false;
    value = strtoul(text, &end, 10);
    *id = value;
    return !*end && value <= INT_MAX;
}

static struct user find_user(const char *wanted)
{
    unsigned uid, gid, number = 0;
    bool numeric = parse_id(wanted, &number);
    char *line, *text = read_database("/etc/passwd");

    while ((line = strsep(&text, "\n"))) {
        char *name = strsep(&line, ":");
        strsep(&line, ":");
        bool valid = parse_id(strsep(&line, ":"), &uid);
        valid = parse_id(strsep(&line, ":"), &gid) && valid;
        strsep(&line, ":");
        const char *home = strsep(&line, ":");
        if (valid && (strcmp(name, wanted) == 0 || (numeric && uid == number)))
            return (struct user){uid, gid, name, home && *home ? home : "/"};
    }
    if (!numeric)
        not_found("cannot become user", wanted, "not in the container's /etc/passwd");
    return (struct user){number, 0, NULL, "/"};
}

static void add_group(gid_t gid)
{
    if (group_count < NGROUPS_MAX)
        groups[group_count++] = gid;
}

/* Next entry of /etc/group: true, with its name, id and comma-separated members. */
static bool next_group(char **text, char **name, unsigned *gid, char **members)
{
    char *line;

    while ((line = strsep(text, "\n"))) {
        *name = strsep(&line, ":");
        strsep(&line, ":");
        bool valid = parse_id(strsep(&line, ":"), gid);
        *members = strsep(&line, ":");
        if (valid)
            return true;
    }
    return false;
}

static gid_t find_group(const char *wanted)
{
    unsigned gid, number = 0;
    bool numeric = parse_id(wanted, &number);
    char *name, *members, *text = read_database("/etc/group");

    while (next_group(&text, &name, &gid, &members))
        if (strcmp(name, wanted) == 0)
            return gid;
    if (!numeric)
        not_found("cannot join group", wanted, "not in the container's /etc/group");
    return number;
}

static void add_groups_of(const char *user)
{
    unsigned gid;
    char *name, *member, *members, *text = read_database("/etc/group");

    while (next_group(&text, &name, &gid, &members))
        while ((member = strsep(&members, ",")))
            if (strcmp(member, user) == 0)
                add_group(gid);
}

/* As Docker and runc: an explicit group replaces those of the user's entries; -G comes on top. */
static struct user resolve_user(char *spec, char *more)
{
    char *group = spec, *name = strsep(&group, ":");
    struct user user = find_user(*name ? name : "0");

    if (group && *group)
        user.gid = find_group(group);
    /* The primary group is listed too: else a process could drop it and pass a file that denies the group. */
    add_group(user.gid);
    if (user.name && !(group && *group))
        add_groups_of(user.name);
    while ((name = strsep(&more, ",")))
        add_group(find_group(name));
    return user;
}

/* --- becoming the command ----------------------------------------------------------------------------------- */

static void open_terminal(uid_t owner)
{
    int unlocked = 0, slave = -1;
    int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);

    if (master < 0 || ioctl(master, TIOCSPTLCK, &unlocked) < 0 ||
        (slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0 ||
        fchown(slave, owner, -1) < 0 || ioctl(slave, TIOCSCTTY, 0) < 0 || report("T", master) < 0)
        fail("tty", "cannot open a terminal on", "/dev/ptmx", NULL);
    for (int fd = 0; fd <= 2; fd++)
        dup2(slave, fd);
}

/* The container's own, not the host's: as systemd's container interface has it. */
static void make_console(void)
{
    const char *path = "/dev/console", *terminal = ttyname(STDIN_FILENO);

    if ((mknod(path, S_IFREG | 0600, 0) < 0 && errno != EEXIST) || !terminal ||
        mount(terminal, path, NULL, MS_BIND, NULL) < 0)
        fail("tty", "cannot make", path, NULL);
}

static void make_directories(char *path)
{
    struct stat st;

    if (stat(path, &st) == 0 || errno != ENOENT)
        return; /* chdir says what is wrong with it */
    for (char *slash = strchr(path + 1, '/');; slash = strchr(slash + 1, '/')) {
        if (slash)
            *slash = '\0';
        if (mkdir(path, 0755) < 0 && errno != EEXIST)
            fail("cwd", "cannot make directory", path, NULL);
        if (!slash)
            return;
        *slash = '/';
    }
}

/* From the bounding set: the others are computed from it when the command is executed (capabilities(7)). */
static void keep_capabilities(const char *mask)
{
    unsigned long long kept = strtoull(mask, NULL, 16);

    for (int number = 0; prctl(PR_CAPBSET_READ, number) >= 0; number++)
        if (!(kept >> number & 1) && prctl(PR_CAPBSET_DROP, number) < 0)
            fail("user", "cannot keep capabilities", mask, NULL);
}

static void set_ids(const struct user *user, const char *spec)
{
    if (setgroups(group_count, groups) < 0 || setgid(user->gid) < 0 || setuid(user->uid) < 0)
        fail("user", "cannot become user", spec, NULL);
    if (!getenv("HOME"))
        setenv("HOME", user->home, 1);
}

/* execvp without its habit of giving what it cannot run to /bin/sh. */
static _Noreturn void execute(char **argv)
{
    char path[PATH_MAX];
    const char *directory, *rest = getenv("PATH");
    int error = ENOENT;

    if (strchr(argv[0], '/') || !*argv[0]) {
        execv(argv[0], argv);
        fail("exec", "cannot run", argv[0], NULL);
    }
    for (rest = rest ? rest : DEFAULT_PATH; rest;) {
        directory = rest;
        rest = strchr(rest, ':');
        int length = rest ? rest++ - directory : (int)strlen(directory);
        if (snprintf(path, sizeof(path), "%.*s%s%s", length, directory, length ? "/" : "./", argv[0]) >= PATH_MAX)
            continue;
        execv(path, argv);
        if (errno != ENOENT && errno != ENOTDIR)
            error = errno;
        if (error != ENOENT && error != EACCES)
            break;
    }
    errno = error;
    fail("exec", "cannot run", argv[0], NULL);
}

static _Noreturn void become(struct options *options)
{
    sigset_t none;
    struct user user = resolve_user(options->user, options->groups);

    /* No terminal and no process group of others: kill(0) shall reach the command's own only. EPERM: we lead one. */
    setsid();
    if (options->tty)
        open_terminal(user.uid);
    if (options->tty && options->boots)
        make_console();
    if (options->cwd)
        make_directories(options->cwd);
    if (options->capabilities)
        keep_capabilities(options->capabilities);
    set_ids(&user, options->user);
    if (options->cwd && chdir(options->cwd) < 0)
        fail("cwd", "cannot enter directory", options->cwd, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execute(options->argv);
}

/* --- being PID 1 --------------------------------------------------------------------------------------------- */

static void reap(pid_t command)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0)
        if (pid == command)
            _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static _Noreturn void supervise(pid_t command)
{
    sigset_t all;

    for (sigfillset(&all);;) {
        int number = SIGCHLD;
        sigwait(&all, &number);
        if (number == SIGCHLD)
            reap(command);
        else
            kill(command, number);
    }
}

/* Returns in the child, which will be the command. */
static void start_supervised(void)
{
    pid_t command;
    int running[2];
    char none;

    if (getpid() != 1)
        prctl(PR_SET_CHILD_SUBREAPER, 1);
    if (pipe2(running, O_CLOEXEC) < 0)
        fail("init", "cannot make", "a pipe", NULL);
    command = fork();
    if (command < 0)
        fail("init", "cannot", "fork", NULL);
    if (command == 0)
        return;
    /* stdin is the command's alone: its writer shall see when it is closed. 1 and 2 serve those who use /proc/1/fd. */
    close(STDIN_FILENO);
    /* Ends when the command has been executed, or could not be and said so. */
    close(running[1]);
    while (read(running[0], &none, 1) < 0 && errno == EINTR)
        continue;
    report("R", -1);
    /* A program that its user cannot read is not dumpable, and then /proc/1/fd is closed to the container's own root. */
    prctl(PR_SET_DUMPABLE, 1);
    close_range(3, ~0U, 0);
    supervise(command);
}

static void load_filter(const char *path)
{
    struct stat st = {0};
    struct sock_fprog program;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) < 0)
        fail("seccomp", "cannot load filter", path, NULL);
    program.len = st.st_size / sizeof(struct sock_filter);
    program.filter = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (program.filter == MAP_FAILED || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
        fail("seccomp", "cannot load filter", path, NULL);
    close(fd);
}

/* A process of one thread that writes 0 to `tasks` moves without the lock of all forks (kernel: cgroup_attach_lock). */
static void join_cgroups(char *fds)
{
    char *fd;

    while ((fd = strsep(&fds, ",")))
        if (write(atoi(fd), "0", 1) < 0)
            fail("cgroup", "cannot join", "the container's cgroups", NULL);
}

/* The system sees its own cgroup as the root, and nothing above; of v1 nothing at all, which systemd would mix in. */
static void own_cgroups(void)
{
    const char *path = "/sys/fs/cgroup";

    if (unshare(CLONE_NEWCGROUP) < 0 ||
        mount("cgroup2", path, "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        fail("cgroup", "cannot mount", path, NULL);
}

static void reset_inherited(void)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigset_t all;

    for (int number = 1; number <= SIGRTMAX; number++)
        sigaction(number, &action, NULL);
    /* Blocked, none is lost from here on, also of those that PID 1 would be spared (pid_namespaces(7)). */
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    umask(022);
    if (close_range(3, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
        fail("init", "cannot", "close inherited files", NULL);
}

int main(int argc, char **argv)
{
    struct options options = {.user = (char[]){"0"}};
    int option;

    while ((option = getopt(argc, argv, "+wxbj:u:G:C:k:ts:f:")) != -1)
        switch (option) {
        case 'w':
            for (;;)
                pause();
        case 'x': options.exec_only = true; break;
        case 'b': options.boots = true; break;
        case 'j': options.cgroups = optarg; break;
        case 'u': options.user = optarg; break;
        case 'G': options.groups = optarg; break;
        case 'C': options.cwd = optarg; break;
        case 'k': options.capabilities = optarg; break;
        case 't': options.tty = true; break;
        case 's': options.filter = optarg; break;
        case 'f': status_fd = atoi(optarg); break;
        default: return 125;
        }
    options.argv = argv + optind;
    if (!options.argv[0]) {
        errno = EINVAL;
        fail("init", "no command after", "--", NULL);
    }
    reset_inherited();
    join_cgroups(options.cgroups);
    if (options.boots)
        own_cgroups();
    report("S", -1);
    /* Before the fork, so that the kernel keeps one filter for both. What follows is what any container may do. */
    if (options.filter)
        load_filter(options.filter);
    if (!options.exec_only)
        start_supervised();
    become(&options);
}
