from rgopd.protos import common_pb2 as _common_pb2
from rgopd.protos import environment_pb2 as _environment_pb2
from rgopd.protos import teacher_pb2 as _teacher_pb2
from rgopd.protos import verifier_pb2 as _verifier_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_STOP: _ClassVar[FinishReason]
    FINISH_LENGTH: _ClassVar[FinishReason]
    FINISH_TURNS: _ClassVar[FinishReason]
FINISH_UNSPECIFIED: FinishReason
FINISH_STOP: FinishReason
FINISH_LENGTH: FinishReason
FINISH_TURNS: FinishReason

class Prompt(_message.Message):
    __slots__ = ("prompt_id", "prompt_ids", "check", "teacher", "domain", "messages_json", "environment")
    PROMPT_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_IDS_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    TEACHER_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_JSON_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    prompt_id: str
    prompt_ids: _common_pb2.Tensor
    check: _verifier_pb2.Check
    teacher: str
    domain: str
    messages_json: str
    environment: _environment_pb2.Environment
    def __init__(self, prompt_id: _Optional[str] = ..., prompt_ids: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., check: _Optional[_Union[_verifier_pb2.Check, _Mapping]] = ..., teacher: _Optional[str] = ..., domain: _Optional[str] = ..., messages_json: _Optional[str] = ..., environment: _Optional[_Union[_environment_pb2.Environment, _Mapping]] = ...) -> None: ...

class SamplingParams(_message.Message):
    __slots__ = ("temperature", "top_p", "top_k", "max_new_tokens", "support_k")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_K_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    support_k: int
    def __init__(self, temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., max_new_tokens: _Optional[int] = ..., support_k: _Optional[int] = ...) -> None: ...

class GroupRequest(_message.Message):
    __slots__ = ("group_id", "prompt", "n", "seed")
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    group_id: str
    prompt: Prompt
    n: int
    seed: int
    def __init__(self, group_id: _Optional[str] = ..., prompt: _Optional[_Union[Prompt, _Mapping]] = ..., n: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("header", "request_id", "groups", "policy_version", "sampling", "purpose", "verify", "score_job", "turns")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FIELD_NUMBER: _ClassVar[int]
    SCORE_JOB_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    header: _common_pb2.Header
    request_id: str
    groups: _containers.RepeatedCompositeFieldContainer[GroupRequest]
    policy_version: int
    sampling: SamplingParams
    purpose: str
    verify: bool
    score_job: _teacher_pb2.ScoreJob
    turns: TurnLimits
    def __init__(self, header: _Optional[_Union[_common_pb2.Header, _Mapping]] = ..., request_id: _Optional[str] = ..., groups: _Optional[_Iterable[_Union[GroupRequest, _Mapping]]] = ..., policy_version: _Optional[int] = ..., sampling: _Optional[_Union[SamplingParams, _Mapping]] = ..., purpose: _Optional[str] = ..., verify: bool = ..., score_job: _Optional[_Union[_teacher_pb2.ScoreJob, _Mapping]] = ..., turns: _Optional[_Union[TurnLimits, _Mapping]] = ...) -> None: ...

class TurnLimits(_message.Message):
    __slots__ = ("max_turns", "max_tokens", "max_observation_tokens", "calls")
    MAX_TURNS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_OBSERVATION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    max_turns: int
    max_tokens: int
    max_observation_tokens: int
    calls: str
    def __init__(self, max_turns: _Optional[int] = ..., max_tokens: _Optional[int] = ..., max_observation_tokens: _Optional[int] = ..., calls: _Optional[str] = ...) -> None: ...

class Rollout(_message.Message):
    __slots__ = ("header", "group_id", "index", "policy_version", "prompt_ids", "response_ids", "sampled_logprobs", "support_ids", "response_text", "finish_reason", "prompt_id", "messages_json", "temperature", "own", "check", "told", "environment")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROMPT_IDS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_IDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_IDS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_TEXT_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    PROMPT_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_JSON_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    OWN_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    TOLD_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    header: _common_pb2.Header
    group_id: str
    index: int
    policy_version: int
    prompt_ids: _common_pb2.Tensor
    response_ids: _common_pb2.Tensor
    sampled_logprobs: _common_pb2.Tensor
    support_ids: _common_pb2.Tensor
    response_text: str
    finish_reason: FinishReason
    prompt_id: str
    messages_json: str
    temperature: float
    own: _common_pb2.Tensor
    check: _verifier_pb2.Check
    told: _containers.RepeatedScalarFieldContainer[str]
    environment: _environment_pb2.Environment
    def __init__(self, header: _Optional[_Union[_common_pb2.Header, _Mapping]] = ..., group_id: _Optional[str] = ..., index: _Optional[int] = ..., policy_version: _Optional[int] = ..., prompt_ids: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., response_ids: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., sampled_logprobs: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., support_ids: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., response_text: _Optional[str] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ..., prompt_id: _Optional[str] = ..., messages_json: _Optional[str] = ..., temperature: _Optional[float] = ..., own: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., check: _Optional[_Union[_verifier_pb2.Check, _Mapping]] = ..., told: _Optional[_Iterable[str]] = ..., environment: _Optional[_Union[_environment_pb2.Environment, _Mapping]] = ...) -> None: ...

class Turn(_message.Message):
    __slots__ = ("response_ids", "sampled_logprobs", "support_ids", "text", "finish_reason")
    RESPONSE_IDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_IDS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    response_ids: _common_pb2.Tensor
    sampled_logprobs: _common_pb2.Tensor
    support_ids: _common_pb2.Tensor
    text: str
    finish_reason: FinishReason
    def __init__(self, response_ids: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., sampled_logprobs: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., support_ids: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., text: _Optional[str] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ...) -> None: ...

class StageDone(_message.Message):
    __slots__ = ("header", "stage", "group_id", "failure")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    header: _common_pb2.Header
    stage: str
    group_id: str
    failure: _common_pb2.Failure
    def __init__(self, header: _Optional[_Union[_common_pb2.Header, _Mapping]] = ..., stage: _Optional[str] = ..., group_id: _Optional[str] = ..., failure: _Optional[_Union[_common_pb2.Failure, _Mapping]] = ...) -> None: ...

class PolicyVersion(_message.Message):
    __slots__ = ("header", "version", "path", "sha256")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    header: _common_pb2.Header
    version: int
    path: str
    sha256: str
    def __init__(self, header: _Optional[_Union[_common_pb2.Header, _Mapping]] = ..., version: _Optional[int] = ..., path: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...
