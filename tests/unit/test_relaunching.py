"""A container's spec and the keywords that make another like it."""

from __future__ import annotations

from attrs import evolve, fields

from lxcwrap import Endpoint, HealthCheck, Limits, Mount, Port, RestartPolicy, Ulimit
from lxcwrap.oci import ImageConfig
from lxcwrap.options import make_spec
from lxcwrap.relaunching import as_options, overridden
from lxcwrap.specs import ContainerSpec, Security
from lxcwrap.supervisor.plan import environment

CONFIG = ImageConfig(diff_ids=(), cmd=("true",), env={"FROM": "image"}, volumes=("/unused",))
SPEC = ContainerSpec(image_id="sha256:00", name="db", argv=("serve",), env={"A": "1", "B": "2"})


def again(spec: ContainerSpec, **given: object) -> ContainerSpec:
    options = overridden(as_options(spec), given, auto_remove=False)
    config = evolve(CONFIG, volumes=(), env={})
    return make_spec("sha256:00", config, spec.argv, None, options, container_id="ab" * 32, auto_remove=False)


def test_another_is_made_as_the_first() -> None:
    """Whatever the first was made with, another like it has, too: no field is forgotten."""
    own = {"image_id", "name", "hostname", "argv", "auto_remove", "stdin_open", "network_mode", "networks"}
    spec = evolve(
        SPEC,
        env=environment(SPEC.env),
        cwd="/srv",
        user="www:data",
        groups=("7",),
        labels={"a": "b"},
        stop_signal=2,
        mounts=(Mount.volume("data", "/data", read_only=True), Mount.tmpfs("/run")),
        limits=Limits(memory="1MiB", disk="64MiB"),
        read_only=True,
        tty=True,
        init=False,
        ulimits=(Ulimit(name="core", soft=0, hard=0),),
        sysctls={"net.core.somaxconn": "9"},
        shm_size=4096,
        extra_hosts={"x": "10.0.0.1"},
        oom_score_adj=5,
        security=Security(cap_add=("NET_ADMIN",), seccomp=False),
        publish=(Port(80),),
        restart=RestartPolicy.always(),
        health=HealthCheck.tcp(80),
        log_max_bytes=100,
        log_max_files=7,
    )
    default = ContainerSpec(image_id="", name="x", argv=("y",))
    for field in (field.name for field in fields(ContainerSpec) if field.name not in own):
        assert getattr(spec, field) != getattr(default, field), f"{field}: not in this test yet"
        assert getattr(again(spec), field) == getattr(spec, field)


def test_only_one_can_have_an_address_and_a_port_of_the_host() -> None:
    """The network stays, with its aliases; the address and the port of the host are chosen anew."""
    endpoint = Endpoint(ip="10.1.1.9", mac="02:00:00:00:00:01", aliases=("db",))
    spec = evolve(SPEC, networks={"front": endpoint}, publish=(Port(80, host_port=8080),), hostname="db")
    made = again(spec)
    assert made.networks == {"front": Endpoint(aliases=("db",))}
    assert made.publish == (Port(80),)
    assert made.hostname != "db"


def test_an_image_s_health_check_that_was_switched_off_stays_so() -> None:
    """No check of the first means none of the other, whatever the image says."""
    assert as_options(SPEC)["health"] == HealthCheck.none()


def test_what_is_given_takes_the_place() -> None:
    """Keywords replace what the first has; variables are added; None says nothing."""
    spec = evolve(SPEC, limits=Limits(pids=10), user="www")
    made = again(spec, env={"B": "3"}, limits=Limits(memory="64MiB"), user=None, labels={"x": "y"})
    assert {key: made.env[key] for key in "AB"} == {"A": "1", "B": "3"}
    assert (made.limits, made.user, made.labels) == (Limits(memory="64MiB"), "www", {"x": "y"})


def test_what_removes_itself_is_not_restarted() -> None:
    """The policy of the first does not refuse one that is to remove itself."""
    options = as_options(evolve(SPEC, restart=RestartPolicy.always()))
    assert overridden(options, {}, auto_remove=True)["restart"] == RestartPolicy.no()
