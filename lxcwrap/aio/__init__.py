"""lxcwrap for event loops: the same names with the same parameters and results, awaited.

    async with aio.Host() as host, await host.containers.launch("nginx", name="web") as web:
        await web.wait_ready(ready.tcp(80))
        async for line in web.log_lines(follow=True): ...

Methods are awaited, or iterated over by ``async for``, or entered by ``async with``. Properties, and what is
looked up in collections, are read as they are. Values and errors are those of `lxcwrap`.
"""

from __future__ import annotations

from .calls import Calls as Calls
from .container import Container as Container
from .containers import Containers as Containers
from .host import Host as Host
from .host import default_host as default_host
from .host import run as run
from .host import use_host as use_host
from .image import BuildSteps as BuildSteps
from .image import Image as Image
from .image import Images as Images
from .network import Network as Network
from .network import Networks as Networks
from .paths import ContainerPath as ContainerPath
from .paths import ImagePath as ImagePath
from .paths import VolumePath as VolumePath
from .popen import Popen as Popen
from .snapshot import Snapshot as Snapshot
from .snapshot import Snapshots as Snapshots
from .volume import Volume as Volume
from .volume import Volumes as Volumes
