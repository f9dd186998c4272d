"""Runs the command line many times without paying for its imports: each request is one forked process.

    python fork_server.py     reads requests, one JSON object a line, and answers each with one line:
                              {"status": …, "out": …, "err": …, "cpu": seconds} when it has ended

The parent imports everything and does nothing else, with one thread, so that a fork of it is what a fresh process
would be after its imports. `argv` and `cwd` say what to run, and where.

A request may carry `"mishap": {"at": k, "kind": …}`, which strikes just before the k-th change the process makes to
the file system (a file opened for writing, made durable, renamed or removed; a folder made or removed):

    kill    SIGKILL, at once
    tear    a kill by the system in the midst of the next write that passes `bytes` bytes of its file
    full    from then on every write past `bytes` bytes of a file fails, as on a full disk
    signal  the signals in `signals` are sent to the process itself, one after the other

With `"kill_after": seconds`, another process sends SIGKILL once the first has computed for so long, wherever it is.

A request `{"ranks": [request, …]}` runs several processes at once that meet as those of torchrun do, and is answered
by one line with a list; a rank that hangs is ended after two minutes. With `"script": path` a process runs that file
of Python in the place of the command line.

With `"terminal": path`, the process reads from and writes to that terminal, which controls it.

With `"count": path`, the changes are listed in that file when the process ends by itself. Nothing is made durable in
earnest: a kill loses nothing that the system holds, only a power cut does, and waiting for a disk is slow.
"""

import contextlib
import importlib
import json
import os
import pkgutil
import resource
import runpy
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

CHANGES = {"os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR
APART = ("__main__", "exports", "serve", "ui")


def watch(changed: Callable[[str], None]) -> None:
    """Has `changed` called before every change of the file system by this process, for the rest of its life."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and (arguments[2] or 0) & WRITING):
            changed(f"{event} {arguments[0]}")

    os.fsync = lambda fd: changed("fsync")
    sys.addaudithook(hook)


def strike(mishap: dict[str, Any]) -> None:
    """What the request asked to happen, now."""
    if mishap["kind"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if mishap["kind"] == "signal":
        for number in mishap["signals"]:
            os.kill(os.getpid(), number)
        return
    if mishap["kind"] == "tear":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (mishap["bytes"], resource.RLIM_INFINITY))


def kill_later(seconds: float) -> None:
    """Starts a process that kills this one after so much time on a CPU, unless it has ended by then."""
    victim = os.getpid()
    if os.fork() == 0:
        os.closerange(0, 1000)  # whoever waits for the output of the victim does not wait for this one
        while os.getppid() == victim:
            with open(f"/proc/{victim}/schedstat") as file:
                if int(file.read().split()[0]) > seconds * 1e9:
                    os.kill(victim, signal.SIGKILL)
            time.sleep(0.001)
        os._exit(0)


def take_terminal(path: str) -> None:
    """Makes a terminal the standard input, output and errors of this process, which its Ctrl-C then reaches."""
    os.setsid()
    terminal = os.open(path, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(terminal, descriptor)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in enumerate("rww"))
    os.environ["TERM"] = "xterm"


def run(request: dict[str, Any]) -> int:
    """The child: the real command line, in the place and with the files the request names; its exit code."""
    from nanogrove.cli.main import main

    os.chdir(request["cwd"])
    if "terminal" in request:
        take_terminal(request["terminal"])
    if "kill_after" in request:
        kill_later(request["kill_after"])
    if "environment" in request:
        os.environ.update(request["environment"])
        signal.alarm(120)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
    seen: list[str] = []
    mishap = request.get("mishap") or {"at": -1}

    def changed(what: str) -> None:
        seen.append(what)
        if len(seen) == mishap["at"]:
            strike(mishap)

    watch(changed)
    sys.argv = [request.get("script", "nanogrove"), *request["argv"]]
    code: object = 0
    try:
        if "script" in request:
            runpy.run_path(request["script"], run_name="__main__")
        else:
            main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if "count" in request:
        with contextlib.suppress(OSError), open(request["count"], "w") as file:
            file.write("\n".join(seen))
    return code if isinstance(code, int) else int(code is not None)


def meeting(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The requests of ranks, with what torchrun tells its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": len(requests), "LOCAL_WORLD_SIZE": len(requests), "MASTER_PORT": port}
    return [
        {
            **request,
            "environment": {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()},
        }
        for rank, request in enumerate(requests)
    ]


def drained(pipes: list[int]) -> list[str]:
    """All that comes out of the pipes until they are closed."""
    texts = dict.fromkeys(pipes, b"")
    with selectors.DefaultSelector() as selector:
        for end in pipes:
            selector.register(end, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                data = os.read(key.fd, 1 << 16)
                texts[key.fd] += data
                if not data:
                    selector.unregister(key.fd)
                    os.close(key.fd)
    return [texts[end].decode() for end in pipes]


def forked(request: dict[str, Any]) -> tuple[int, list[int]]:
    """A process for the request: its id, and where its output and its errors come out."""
    pipes = [os.pipe(), os.pipe()]
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for descriptor, (_, end) in enumerate(pipes, start=1):
                os.dup2(end, descriptor)
            for pair in pipes:
                for end in pair:
                    os.close(end)
            code = run(request)
        finally:
            os._exit(code)
    for _, end in pipes:
        os.close(end)
    return pid, [end for end, _ in pipes]


def answers(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs the requests at once, to their end."""
    children = [forked(request) for request in requests]
    texts = drained([end for _, ends in children for end in ends])
    ends = [os.wait4(pid, 0) for pid, _ in children]
    return [
        {"status": os.waitstatus_to_exitcode(status), "out": out, "err": err, "cpu": used.ru_utime + used.ru_stime}
        for (_, status, used), out, err in zip(ends, texts[::2], texts[1::2], strict=True)
    ]


def import_all() -> None:
    """Imports nanogrove, less what serves pages and what needs a library of its own, and what a run imports late."""
    import nanogrove

    for module in pkgutil.walk_packages(nanogrove.__path__, "nanogrove."):
        if module.name.split(".")[1] not in APART and not module.name.endswith(".kernels"):
            importlib.import_module(module.name)
    for name in ("numpy.ctypeslib", "torch._dynamo"):  # at the first save, and at the first step of an optimizer
        importlib.import_module(name)


def serve() -> None:
    """Answers requests until standard input ends."""
    import torch

    from nanogrove.reports.page import packed_plotly

    import_all()
    packed_plotly()  # once for all of them
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        answer = answers(meeting(request["ranks"])) if "ranks" in request else answers([request])[0]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    serve()
