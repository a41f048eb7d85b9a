"""Hypothesis strategies for what users ask for: valid `ContainerSpec`s with text that tries to break out."""

from __future__ import annotations

from hypothesis import strategies as st

from lxcwrap.specs import ContainerSpec, Device, Limits, Mount, Security, Ulimit
from lxcwrap.supervisor.plan import ALL_CAPABILITIES

# What a careless writer of configuration would let through: ends of lines, separators, comments, other keys.
_EVIL = st.sampled_from(
    (
        "\n",
        "a\nlxc.hook.pre-start = /bin/sh",
        "\r\nb",
        "\u2028x",
        "#",
        "=",
        " ",
        "\t",
        "\\",
        "\\n",
        "é",
        "'\"",
    )
)
# Lone surrogates are refused: see specs.check_text.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12) | _EVIL
names = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,20}", fullmatch=True)
hostnames = st.just("") | st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9.-]{0,10}[a-zA-Z0-9])?", fullmatch=True)
_parts = texts.map(lambda text: text.replace("/", "_")).filter(lambda text: text not in ("", ".", ".."))
paths = st.lists(_parts, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
targets = paths.filter(lambda path: path.split("/")[1] not in ("proc", "sys", "dev"))
argvs = st.lists(texts, max_size=3).map(lambda rest: ("/bin/x", *rest))
env_names = texts.filter(lambda name: name and "=" not in name and "\n" not in name)
envs = st.dictionaries(env_names, texts, max_size=4)

limits = st.builds(
    Limits,
    memory=st.none() | st.integers(512 * 1024, 1 << 40),
    cpus=st.none() | st.floats(0.01, 512),
    cpu_weight=st.none() | st.integers(1, 10000),
    cpuset=st.sampled_from((None, "0", "0-1,4")),
    pids=st.none() | st.integers(1, 1 << 22),
    read_bps=st.none() | st.integers(1, 1 << 40),
    write_bps=st.none() | st.integers(1, 1 << 40),
) | st.builds(Limits, memory=st.just(1 << 20), swap=st.integers(0, 1 << 40))

tmpfs_mounts = st.builds(
    Mount.tmpfs,
    targets,
    size=st.none() | st.integers(1, 1 << 40),
    mode=st.integers(0, 0o7777),
    exec=st.booleans(),
)
bind_mounts = st.builds(
    Mount, kind=st.just("bind"), source=paths, target=targets, read_only=st.booleans(), exec=st.booleans()
)
mounts = st.lists(tmpfs_mounts | bind_mounts, max_size=4, unique_by=lambda mount: mount.target).map(tuple)
_numbers = st.none() | st.integers(0, 1 << 40)
ulimits = st.builds(
    lambda name, soft, above: Ulimit(name=name, soft=soft, hard=None if soft is None else soft + above),
    st.sampled_from(("nofile", "core", "nproc")),
    _numbers,
    st.integers(0, 99),
)
capabilities = st.lists(st.sampled_from((*sorted(ALL_CAPABILITIES), "ALL")), max_size=4).map(tuple)
# Devices that every machine has, as a plan looks at them.
devices = st.builds(
    Device,
    path=st.sampled_from(("/dev/null", "/dev/zero")),
    target=st.just("") | targets,
    access=st.sampled_from(("r", "rw", "rwm")),
)
securities = st.builds(
    Security,
    privileged=st.booleans(),
    cap_add=capabilities,
    cap_drop=capabilities,
    seccomp=st.booleans(),
    no_new_privs=st.booleans(),
    masked_paths=st.booleans(),
    devices=st.lists(devices, max_size=2).map(tuple),
)
specs = st.builds(
    ContainerSpec,
    image_id=st.just("sha256:" + "ab" * 32),
    name=names,
    argv=argvs,
    env=envs,
    cwd=paths,
    user=st.sampled_from(("", "0", "www", "www:www", "1000:1000")),
    groups=st.lists(names, max_size=2).map(tuple),
    hostname=hostnames,
    labels=st.dictionaries(texts, texts, max_size=3),
    stop_signal=st.integers(1, 64),
    mounts=mounts,
    limits=limits,
    read_only=st.booleans(),
    tty=st.booleans(),
    init=st.sampled_from((True, False, "system")),
    ulimits=st.lists(ulimits, max_size=2).map(tuple),
    sysctls=st.dictionaries(st.sampled_from(("net.core.somaxconn", "kernel.shmmax")), texts, max_size=2),
    shm_size=st.integers(1, 1 << 40),
    extra_hosts=st.dictionaries(
        st.sampled_from(("db", "cache")), st.sampled_from(("10.0.0.1", "::1")), max_size=2
    ),
    oom_score_adj=st.integers(-1000, 1000),
    security=securities,
    auto_remove=st.booleans(),
    log_max_bytes=st.integers(1, 1 << 30),
    log_max_files=st.integers(1, 9),
)
