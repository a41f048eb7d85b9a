/*
 * Looks around from inside a container. Static, so that it runs in any image.
 *
 *   probe               what it is and what it may do: lines of "KIND NAME VALUE"
 *   probe look          only what it is
 *   probe open PATH...  "read PATH ERRNO" and "write PATH ERRNO" for each
 *   probe trace PID     what a process may learn of another: "trace HOW ERRNO"
 *   probe catch PATH    until PATH exists: programs of processes that come and can be looked into, "caught PROGRAM -"
 *   probe ids           real and effective user id
 *   probe keys          how many keys its session keyring holds
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static void say(const char *kind, const char *name, long result)
{
    printf("%s %s %d\n", kind, name, result < 0 ? errno : 0);
}

#define CALL(name, ...) say("call", #name, syscall(SYS_##name, ##__VA_ARGS__))
#define CALL_AS(label, name, ...) say("call", label, syscall(SYS_##name, ##__VA_ARGS__))

/* In a child, as some of them would change this process if they were allowed. */
static void try_calls(void)
{
    CALL(acct, "/tmp/acct");
    CALL(add_key, "user", "probe", "x", 1L, -3L);
    CALL(bpf, 5L, "", 0L);
    CALL(clock_settime, 0L, NULL);
    CALL(clone3, NULL, 0L);
    CALL(delete_module, "none", 0L);
    CALL(fanotify_init, 0L, 0L);
    CALL(finit_module, -1L, "", 0L);
    CALL(fsopen, "tmpfs", 0L);
    CALL(init_module, NULL, 0L, "");
    CALL(io_uring_setup, 1L, NULL);
    CALL(kcmp, 1L, 1L, 0L, 0L, 0L);
    CALL(kexec_load, 0L, 0L, NULL, 0L);
    CALL(keyctl, 0L, -3L, 0L);
    CALL(mount, "none", "/mnt", "tmpfs", 0L, NULL);
    CALL(mount_setattr, -1L, "", 0L, NULL, 0L);
    CALL(move_mount, -1L, "", -1L, "", 0L);
    CALL(open_by_handle_at, -1L, NULL, 0L);
    CALL(open_tree, -100L, "/", 1L);
    CALL(perf_event_open, NULL, 0L, -1L, -1L, 0L);
    CALL(pidfd_getfd, -1L, 0L, 0L);
    CALL(pivot_root, ".", ".");
    CALL(quotactl, 0L, NULL, 0L, NULL);
    CALL(reboot, 0L, 0L, 0L, NULL);
    CALL(request_key, "user", "probe", NULL, 0L);
    CALL(sethostname, "probe", 5L);
    CALL(setns, -1L, 0L);
    CALL(settimeofday, NULL, NULL);
    CALL(swapon, "/tmp/swap", 0L);
    CALL(syslog, 3L, NULL, 0L);
    CALL(umount2, "/mnt", 2L);
    CALL(userfaultfd, 1L);
    CALL_AS("personality_no_randomize", personality, 0x40000L);
    CALL_AS("socket_alg", socket, 38L, 5L, 0L);
    CALL_AS("socket_vsock", socket, 40L, 1L, 0L);
    CALL_AS("unshare_mount", unshare, (long)CLONE_NEWNS);
    CALL_AS("unshare_user", unshare, (long)CLONE_NEWUSER);
    say("node", "block", mknod("/tmp/sda", S_IFBLK | 0666, makedev(8, 0)));
    say("node", "char", mknod("/tmp/kmsg", S_IFCHR | 0666, makedev(1, 11)));
    say("node", "fifo", mknod("/tmp/fifo", S_IFIFO | 0666, 0));
    unlink("/tmp/fifo");
}

static void in_child(void (*function)(void))
{
    fflush(stdout);
    if (fork() == 0) {
        function();
        fflush(stdout);
        _exit(0);
    }
    wait(NULL);
}

static void clone_user(void)
{
    long pid = syscall(SYS_clone, (long)(CLONE_NEWUSER | SIGCHLD), 0L, NULL, NULL, 0L);

    if (pid == 0)
        _exit(0);
    say("call", "clone_user", pid);
}

static void copy_lines(const char *kind, const char *path)
{
    char line[4096], name[64], value[4000];
    FILE *file = fopen(path, "re");

    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "%63[^:]:%3999[^\n]", name, value) == 2)
            printf("%s %s %s\n", kind, name, value + strspn(value, " \t"));
    if (file)
        fclose(file);
}

static void list(const char *kind, const char *directory)
{
    char path[512], target[512];
    struct dirent *entry;
    DIR *open = opendir(directory);

    while (open && (entry = readdir(open))) {
        snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
        ssize_t length = readlink(path, target, sizeof(target) - 1);
        if (length >= 0 && atoi(entry->d_name) != dirfd(open)) {
            target[length] = '\0';
            printf("%s %s %s\n", kind, entry->d_name, target);
        }
    }
    if (open)
        closedir(open);
}

static void look_around(void)
{
    char uid_map[256] = "", hostname[128] = "";
    FILE *file;

    list("fd", "/proc/self/fd");
    list("ns", "/proc/self/ns");
    copy_lines("status", "/proc/self/status");
    for (char **variable = environ; *variable; variable++)
        printf("env - %s\n", *variable);
    file = fopen("/proc/self/uid_map", "re");
    if (file && fgets(uid_map, sizeof(uid_map), file))
        printf("id map %s", uid_map);
    gethostname(hostname, sizeof(hostname));
    printf("name host %s\n", hostname);
}

static void try_open(const char *path)
{
    char byte;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

    say("read", path, fd < 0 ? -1 : read(fd, &byte, 1) == 0 ? (errno = ENODATA, -1) : errno == EISDIR ? -1 : 0);
    say("write", path, open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC));
}

static void try_trace(const char *pid)
{
    const char *files[] = {"environ", "maps", "mem", "fd", "root", "cwd", "exe", "fdinfo", "ns/net"};
    char path[64], target[512];

    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
        snprintf(path, sizeof(path), "/proc/%s/%s", pid, files[i]);
        int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        /* Some can be opened by anyone and read by few. */
        say("trace", files[i], fd < 0 || !strchr("em", *files[i]) ? fd : pread(fd, target, 1, 0x400000));
    }
    snprintf(path, sizeof(path), "/proc/%s/exe", pid);
    say("trace", "link", readlink(path, target, sizeof(target)));
    say("trace", "ptrace", ptrace(PTRACE_SEIZE, atoi(pid), 0, 0));
}

static void catch_newcomers(const char *end)
{
    char path[64], program[512];

    for (int last = getpid(); access(end, F_OK) < 0;)
        for (int pid = last + 1; pid < last + 9; pid++) {
            snprintf(path, sizeof(path), "/proc/%d/exe", pid);
            ssize_t length = readlink(path, program, sizeof(program) - 1);
            if (length >= 0) {
                program[length] = '\0';
                printf("caught %s -\n", program);
            }
            if (kill(pid, 0) == 0)
                last = pid;
        }
}

static void count_keys(void)
{
    int keys[256];
    long size = syscall(SYS_keyctl, 11L /* KEYCTL_READ */, -3L /* session */, keys, sizeof(keys));

    printf("keys held %ld\n", size / (long)sizeof(*keys));
}

int main(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "look") == 0)
        look_around();
    else if (strcmp(argv[1], "ids") == 0)
        printf("%d %d\n", getuid(), geteuid());
    else if (strcmp(argv[1], "keys") == 0)
        count_keys();
    else if (argc > 2 && strcmp(argv[1], "catch") == 0)
        catch_newcomers(argv[2]);
    else
        for (char **word = argv + 2; *word; word++)
            strcmp(argv[1], "open") == 0 ? try_open(*word) : try_trace(*word);
    if (argc < 2) {
        in_child(try_calls);
        in_child(clone_user);
    }
    return 0;
}
