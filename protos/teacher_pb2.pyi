from rgopd.protos import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Support(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SUPPORT_UNSPECIFIED: _ClassVar[Support]
    SUPPORT_STUDENT: _ClassVar[Support]
    SUPPORT_TEACHER: _ClassVar[Support]
    SUPPORT_NONE: _ClassVar[Support]

class Across(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACROSS_MAPPED: _ClassVar[Across]
    ACROSS_RANKED: _ClassVar[Across]
    ACROSS_HYBRID: _ClassVar[Across]
SUPPORT_UNSPECIFIED: Support
SUPPORT_STUDENT: Support
SUPPORT_TEACHER: Support
SUPPORT_NONE: Support
ACROSS_MAPPED: Across
ACROSS_RANKED: Across
ACROSS_HYBRID: Across

class ScoreItem(_message.Message):
    __slots__ = ("id", "prompt_ids", "response_ids", "support_ids", "messages_json")
    ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_IDS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_IDS_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_IDS_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_JSON_FIELD_NUMBER: _ClassVar[int]
    id: str
    prompt_ids: _common_pb2.Tensor
    response_ids: _common_pb2.Tensor
    support_ids: _common_pb2.Tensor
    messages_json: str
    def __init__(self, id: _Optional[str] = ..., prompt_ids: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., response_ids: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., support_ids: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., messages_json: _Optional[str] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("header", "model", "k", "support", "rollouts", "temperature", "topk_dtype", "across")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_FIELD_NUMBER: _ClassVar[int]
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOPK_DTYPE_FIELD_NUMBER: _ClassVar[int]
    ACROSS_FIELD_NUMBER: _ClassVar[int]
    header: _common_pb2.Header
    model: str
    k: int
    support: Support
    rollouts: _containers.RepeatedCompositeFieldContainer[ScoreItem]
    temperature: float
    topk_dtype: _common_pb2.DType
    across: Across
    def __init__(self, header: _Optional[_Union[_common_pb2.Header, _Mapping]] = ..., model: _Optional[str] = ..., k: _Optional[int] = ..., support: _Optional[_Union[Support, str]] = ..., rollouts: _Optional[_Iterable[_Union[ScoreItem, _Mapping]]] = ..., temperature: _Optional[float] = ..., topk_dtype: _Optional[_Union[_common_pb2.DType, str]] = ..., across: _Optional[_Union[Across, str]] = ...) -> None: ...

class TeacherScore(_message.Message):
    __slots__ = ("id", "sampled_logprobs", "topk_ids", "topk_logprobs", "tail_logprob", "aligned", "rest_logprob")
    ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TOPK_IDS_FIELD_NUMBER: _ClassVar[int]
    TOPK_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TAIL_LOGPROB_FIELD_NUMBER: _ClassVar[int]
    ALIGNED_FIELD_NUMBER: _ClassVar[int]
    REST_LOGPROB_FIELD_NUMBER: _ClassVar[int]
    id: str
    sampled_logprobs: _common_pb2.Tensor
    topk_ids: _common_pb2.Tensor
    topk_logprobs: _common_pb2.Tensor
    tail_logprob: _common_pb2.Tensor
    aligned: _common_pb2.Tensor
    rest_logprob: _common_pb2.Tensor
    def __init__(self, id: _Optional[str] = ..., sampled_logprobs: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., topk_ids: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., topk_logprobs: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., tail_logprob: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., aligned: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ..., rest_logprob: _Optional[_Union[_common_pb2.Tensor, _Mapping]] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("header", "model", "revision", "scoring", "scores")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SCORING_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    header: _common_pb2.Header
    model: str
    revision: str
    scoring: str
    scores: _containers.RepeatedCompositeFieldContainer[TeacherScore]
    def __init__(self, header: _Optional[_Union[_common_pb2.Header, _Mapping]] = ..., model: _Optional[str] = ..., revision: _Optional[str] = ..., scoring: _Optional[str] = ..., scores: _Optional[_Iterable[_Union[TeacherScore, _Mapping]]] = ...) -> None: ...

class ScoreJob(_message.Message):
    __slots__ = ("header", "group_id", "k", "support", "temperature", "teacher", "tokens", "across")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    SUPPORT_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TEACHER_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    ACROSS_FIELD_NUMBER: _ClassVar[int]
    header: _common_pb2.Header
    group_id: str
    k: int
    support: Support
    temperature: float
    teacher: str
    tokens: int
    across: Across
    def __init__(self, header: _Optional[_Union[_common_pb2.Header, _Mapping]] = ..., group_id: _Optional[str] = ..., k: _Optional[int] = ..., support: _Optional[_Union[Support, str]] = ..., temperature: _Optional[float] = ..., teacher: _Optional[str] = ..., tokens: _Optional[int] = ..., across: _Optional[_Union[Across, str]] = ...) -> None: ...
