"""A completions server over HTTP with a real model behind it, answering in the manner of one kind of server."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

Fault = tuple[int, Mapping[str, str]] | float
"""(status, headers) instead of an answer, or seconds of silence before one."""


class CompletionServer:
    """Styles: vllm (`prompt_logprobs`), sglang (/generate), ids and text (echo with ids or text alone), text-bos (a
    text gets BOS in front), mute (echo is ignored, as llama-server does), chat (no completions at all)."""

    def __init__(self, model: Any, style: str, tokenizer: Any = None, key: str = "") -> None:
        self.model, self.style, self.tokenizer, self.key = model.eval(), style, tokenizer, key
        self.faults: list[Fault] = []
        self.models = ["tiny"]
        self.requests = 0
        self.app = FastAPI()
        self.app.add_api_route("/v1/models", self.list_models)
        if style == "sglang":
            self.app.add_api_route("/generate", self.generate, methods=["POST"])
        elif style != "chat":
            self.app.add_api_route("/v1/completions", self.complete, methods=["POST"])

    def list_models(self, request: Request) -> Any:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": {"message": "Incorrect API key provided"}}, 401)
        return {"object": "list", "data": [{"id": name, "max_model_len": 200} for name in self.models]}

    async def _fault(self) -> Response | None:
        self.requests += 1
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, float):
            await asyncio.sleep(fault)
        elif fault is not None:
            return JSONResponse({"error": {"message": "not now"}}, fault[0], dict(fault[1]))
        return None

    @torch.inference_mode()
    def _logprobs(self, ids: list[int]) -> list[float | None]:
        logits = self.model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
        return [None, *logits.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()]

    async def generate(self, request: Request) -> Any:
        body = await request.json()
        if (fault := await self._fault()) is not None:
            return fault
        assert body["return_logprob"]
        assert body["logprob_start_len"] == 0
        rows = [[value, i, None] for value, i in zip(self._logprobs(body["input_ids"]), body["input_ids"], strict=True)]
        return {"text": "", "meta_info": {"input_token_logprobs": rows, "output_token_logprobs": [[-1.0, 1, None]]}}

    async def complete(self, request: Request) -> Any:
        body = await request.json()
        if (fault := await self._fault()) is not None:
            return fault
        if body["model"] not in self.models:
            return JSONResponse({"error": {"message": f"no model {body['model']}"}}, 404)
        prompt = body["prompt"]
        text = self.style.startswith(("text", "mute"))
        if text != isinstance(prompt, str):
            return JSONResponse({"error": {"message": "prompt: wrong type"}}, 422)
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"] if text else prompt
        if self.style == "text-bos":
            ids = [self.tokenizer.bos_token_id, *ids]
        if len(ids) >= 200:
            return JSONResponse({"error": {"message": "maximum context length is 200 tokens"}}, 400)
        values = self._logprobs(ids)
        choice: dict[str, Any] = {"text": "", "index": 0, "finish_reason": "length"}
        if self.style == "vllm" and "prompt_logprobs" in body:
            rows = [None, *({str(i): {"logprob": v}} for v, i in zip(values[1:], ids[1:], strict=True))]
            choice["prompt_logprobs"] = rows
        elif body.get("echo") and self.style != "mute":
            names = [f"token_id:{i}" for i in ids]
            if self.tokenizer is not None:
                names = [self.tokenizer.decode([i]) for i in ids]
            choice["logprobs"] = {"token_logprobs": [*values, -1.0], "tokens": [*names, "x"]}
        else:
            choice["logprobs"] = {"token_logprobs": [-1.0], "tokens": ["x"]} if body.get("logprobs") else None
        return {"choices": [choice]}

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve in a thread; the base URL."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            server = uvicorn.Server(uvicorn.Config(self.app, log_level="warning"))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
            thread.start()
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                thread.join(60)
