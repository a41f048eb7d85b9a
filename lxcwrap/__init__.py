"""Linux containers (LXC) with a Pythonic API.

`import lxcwrap` loads nothing; each public name is loaded when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .buildsteps import BuildSteps as BuildSteps
    from .calling import Called as Called
    from .calling import Calls as Calls
    from .container import Container as Container
    from .containers import Containers as Containers
    from .copying import CopyResult as CopyResult
    from .copying import Skipped as Skipped
    from .errors import AddressInUseError as AddressInUseError
    from .errors import BuildError as BuildError
    from .errors import CallError as CallError
    from .errors import CommandFailedError as CommandFailedError
    from .errors import ConflictError as ConflictError
    from .errors import ContainerNotFoundError as ContainerNotFoundError
    from .errors import ContentError as ContentError
    from .errors import DigestMismatchError as DigestMismatchError
    from .errors import DockerfileError as DockerfileError
    from .errors import DriverError as DriverError
    from .errors import ExecError as ExecError
    from .errors import ExhaustedError as ExhaustedError
    from .errors import FormatError as FormatError
    from .errors import ImageNotFoundError as ImageNotFoundError
    from .errors import InvalidSpecError as InvalidSpecError
    from .errors import KernelError as KernelError
    from .errors import LxcwrapError as LxcwrapError
    from .errors import NameInUseError as NameInUseError
    from .errors import NetworkNotFoundError as NetworkNotFoundError
    from .errors import NotFoundError as NotFoundError
    from .errors import NotReadyError as NotReadyError
    from .errors import PathDeniedError as PathDeniedError
    from .errors import PathError as PathError
    from .errors import PathExistsError as PathExistsError
    from .errors import PathIsDirectoryError as PathIsDirectoryError
    from .errors import PathNotDirectoryError as PathNotDirectoryError
    from .errors import PathNotFoundError as PathNotFoundError
    from .errors import PortInUseError as PortInUseError
    from .errors import RegistryAuthError as RegistryAuthError
    from .errors import RegistryError as RegistryError
    from .errors import SnapshotNotFoundError as SnapshotNotFoundError
    from .errors import StartError as StartError
    from .errors import StillUsedError as StillUsedError
    from .errors import SupervisorError as SupervisorError
    from .errors import TimeoutExpired as TimeoutExpired
    from .errors import UnsupportedError as UnsupportedError
    from .errors import VolumeNotFoundError as VolumeNotFoundError
    from .errors import WrongStateError as WrongStateError
    from .execution import DEVNULL as DEVNULL
    from .execution import PIPE as PIPE
    from .execution import STDOUT as STDOUT
    from .execution import Popen as Popen
    from .files import ContainerPath as ContainerPath
    from .files import ImagePath as ImagePath
    from .files import VolumePath as VolumePath
    from .host import Host as Host
    from .host import default_host as default_host
    from .host import run as run
    from .host import use_host as use_host
    from .image import Image as Image
    from .imagechanges import ImageChanges as ImageChanges
    from .images import Images as Images
    from .netspecs import Endpoint as Endpoint
    from .netspecs import NetworkSpec as NetworkSpec
    from .netspecs import Port as Port
    from .netspecs import PortBinding as PortBinding
    from .netspecs import Rate as Rate
    from .network import Network as Network
    from .networks import Networks as Networks
    from .options import ContainerOptions as ContainerOptions
    from .policies import HealthCheck as HealthCheck
    from .policies import RestartPolicy as RestartPolicy
    from .progress import StepFinished as StepFinished
    from .progress import StepOutput as StepOutput
    from .progress import StepStarted as StepStarted
    from .progress import TransferProgress as TransferProgress
    from .registry.credentials import Credentials as Credentials
    from .results import Change as Change
    from .results import Completed as Completed
    from .results import DiskUsage as DiskUsage
    from .results import FileStat as FileStat
    from .results import Health as Health
    from .results import HealthResult as HealthResult
    from .results import ImageUsage as ImageUsage
    from .results import LogLine as LogLine
    from .results import Pressure as Pressure
    from .results import Process as Process
    from .results import Pruned as Pruned
    from .results import Stats as Stats
    from .snapshot import Snapshot as Snapshot
    from .snapshots import Snapshots as Snapshots
    from .specs import ContainerSpec as ContainerSpec
    from .specs import Device as Device
    from .specs import Limits as Limits
    from .specs import Mount as Mount
    from .specs import Security as Security
    from .specs import State as State
    from .specs import Ulimit as Ulimit
    from .volume import Volume as Volume
    from .volumes import Volumes as Volumes

__version__ = "0.2.0"

_HOME = {
    "buildsteps": "BuildSteps",
    "calling": "Called Calls",
    "container": "Container",
    "containers": "Containers",
    "copying": "CopyResult Skipped",
    "errors": """
        AddressInUseError BuildError CallError CommandFailedError ConflictError ContainerNotFoundError
        ContentError DigestMismatchError DockerfileError DriverError ExecError ExhaustedError FormatError
        ImageNotFoundError InvalidSpecError KernelError LxcwrapError NameInUseError NetworkNotFoundError
        NotFoundError NotReadyError PathDeniedError PathError PathExistsError PathIsDirectoryError
        PathNotDirectoryError PathNotFoundError PortInUseError RegistryAuthError RegistryError
        SnapshotNotFoundError StartError StillUsedError SupervisorError TimeoutExpired UnsupportedError
        VolumeNotFoundError WrongStateError
    """,
    "execution": "DEVNULL PIPE Popen STDOUT",
    "files": "ContainerPath ImagePath VolumePath",
    "host": "Host default_host run use_host",
    "image": "Image",
    "imagechanges": "ImageChanges",
    "images": "Images",
    "netspecs": "Endpoint NetworkSpec Port PortBinding Rate",
    "network": "Network",
    "networks": "Networks",
    "options": "ContainerOptions",
    "policies": "HealthCheck RestartPolicy",
    "progress": "StepFinished StepOutput StepStarted TransferProgress",
    "registry.credentials": "Credentials",
    "results": """
        Change Completed DiskUsage FileStat Health HealthResult ImageUsage LogLine Pressure Process Pruned
        Stats
    """,
    "snapshot": "Snapshot",
    "snapshots": "Snapshots",
    "specs": "ContainerSpec Device Limits Mount Security State Ulimit",
    "volume": "Volume",
    "volumes": "Volumes",
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name in ("aio", "display", "events", "fixtures", "ready"):  # modules, used by their names
        from importlib import import_module

        return import_module(f".{name}", __name__)
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'lxcwrap' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def load_ipython_extension(ipython: object) -> None:
    """For ``%load_ext lxcwrap``: gives notebooks the cell magic ``%%lxc``."""
    from importlib import import_module

    import_module(".magic", __name__).register(ipython)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
