from rgopd.protos import common_pb2 as _common_pb2
from rgopd.protos import verifier_pb2 as _verifier_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Environment(_message.Message):
    __slots__ = ("name", "args_json", "role", "judge", "tools_json")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARGS_JSON_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    JUDGE_FIELD_NUMBER: _ClassVar[int]
    TOOLS_JSON_FIELD_NUMBER: _ClassVar[int]
    name: str
    args_json: str
    role: str
    judge: str
    tools_json: str
    def __init__(self, name: _Optional[str] = ..., args_json: _Optional[str] = ..., role: _Optional[str] = ..., judge: _Optional[str] = ..., tools_json: _Optional[str] = ...) -> None: ...

class Episode(_message.Message):
    __slots__ = ("id", "environment", "seed", "actions", "observations", "check", "calls")
    ID_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    OBSERVATIONS_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    id: str
    environment: Environment
    seed: int
    actions: _containers.RepeatedScalarFieldContainer[str]
    observations: _containers.RepeatedScalarFieldContainer[str]
    check: _verifier_pb2.Check
    calls: str
    def __init__(self, id: _Optional[str] = ..., environment: _Optional[_Union[Environment, _Mapping]] = ..., seed: _Optional[int] = ..., actions: _Optional[_Iterable[str]] = ..., observations: _Optional[_Iterable[str]] = ..., check: _Optional[_Union[_verifier_pb2.Check, _Mapping]] = ..., calls: _Optional[str] = ...) -> None: ...

class Observation(_message.Message):
    __slots__ = ("id", "text", "done", "reward", "error", "duration_ms")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    id: str
    text: str
    done: bool
    reward: float
    error: str
    duration_ms: float
    def __init__(self, id: _Optional[str] = ..., text: _Optional[str] = ..., done: bool = ..., reward: _Optional[float] = ..., error: _Optional[str] = ..., duration_ms: _Optional[float] = ...) -> None: ...

class StepRequest(_message.Message):
    __slots__ = ("header", "episodes")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    EPISODES_FIELD_NUMBER: _ClassVar[int]
    header: _common_pb2.Header
    episodes: _containers.RepeatedCompositeFieldContainer[Episode]
    def __init__(self, header: _Optional[_Union[_common_pb2.Header, _Mapping]] = ..., episodes: _Optional[_Iterable[_Union[Episode, _Mapping]]] = ...) -> None: ...

class StepResponse(_message.Message):
    __slots__ = ("header", "observations")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    OBSERVATIONS_FIELD_NUMBER: _ClassVar[int]
    header: _common_pb2.Header
    observations: _containers.RepeatedCompositeFieldContainer[Observation]
    def __init__(self, header: _Optional[_Union[_common_pb2.Header, _Mapping]] = ..., observations: _Optional[_Iterable[_Union[Observation, _Mapping]]] = ...) -> None: ...

class StepJob(_message.Message):
    __slots__ = ("header", "episodes", "request")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    EPISODES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    header: _common_pb2.Header
    episodes: _containers.RepeatedCompositeFieldContainer[Episode]
    request: bytes
    def __init__(self, header: _Optional[_Union[_common_pb2.Header, _Mapping]] = ..., episodes: _Optional[_Iterable[_Union[Episode, _Mapping]]] = ..., request: _Optional[bytes] = ...) -> None: ...
