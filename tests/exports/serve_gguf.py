"""llama.cpp in a process of its own, since in one with torch both fight for threads: a request, a line of JSON, each.

A request is `{"path": …, "context": …, "posts": [[route, body], …]}`, and its answer the list of those of the server.
"""

import json
import sys
import urllib.error
import urllib.request
from typing import Any

import xllamacpp


def server(path: str, context: int) -> Any:
    settings = xllamacpp.CommonParams()
    settings.model.path = path
    settings.n_ctx, settings.n_parallel, settings.n_gpu_layers = context, 1, 0
    settings.fit_params = settings.warmup = False  # the first would choose other sizes
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.verbosity = -1  # standard output is for answers
    return xllamacpp.Server(settings)


def post(address: str, route: str, body: Any) -> Any:
    request = urllib.request.Request(address + route, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return {"error": error.read().decode()}


servers = []  # one that is freed may wait for its own threads without end, so all stay until the process is killed
for line in sys.stdin:
    asked = json.loads(line)
    servers.append(server(asked["path"], asked["context"]))
    address = servers[-1].listening_address
    print(json.dumps([post(address, *each) for each in asked["posts"]]), flush=True)
