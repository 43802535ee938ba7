from rgopd.protos import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VerdictStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[VerdictStatus]
    VERDICT_PASSED: _ClassVar[VerdictStatus]
    VERDICT_FAILED: _ClassVar[VerdictStatus]
    VERDICT_ERROR: _ClassVar[VerdictStatus]
VERDICT_UNSPECIFIED: VerdictStatus
VERDICT_PASSED: VerdictStatus
VERDICT_FAILED: VerdictStatus
VERDICT_ERROR: VerdictStatus

class Check(_message.Message):
    __slots__ = ("kind", "response", "spec_json")
    KIND_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    kind: str
    response: str
    spec_json: str
    def __init__(self, kind: _Optional[str] = ..., response: _Optional[str] = ..., spec_json: _Optional[str] = ...) -> None: ...

class VerifyItem(_message.Message):
    __slots__ = ("id", "check")
    ID_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    id: str
    check: Check
    def __init__(self, id: _Optional[str] = ..., check: _Optional[_Union[Check, _Mapping]] = ...) -> None: ...

class VerifyRequest(_message.Message):
    __slots__ = ("header", "items")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    header: _common_pb2.Header
    items: _containers.RepeatedCompositeFieldContainer[VerifyItem]
    def __init__(self, header: _Optional[_Union[_common_pb2.Header, _Mapping]] = ..., items: _Optional[_Iterable[_Union[VerifyItem, _Mapping]]] = ...) -> None: ...

class TestOutcome(_message.Message):
    __slots__ = ("status", "reason", "duration_ms")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    status: VerdictStatus
    reason: str
    duration_ms: float
    def __init__(self, status: _Optional[_Union[VerdictStatus, str]] = ..., reason: _Optional[str] = ..., duration_ms: _Optional[float] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("id", "status", "reward", "reason", "extracted", "tests", "duration_ms")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXTRACTED_FIELD_NUMBER: _ClassVar[int]
    TESTS_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    id: str
    status: VerdictStatus
    reward: float
    reason: str
    extracted: str
    tests: _containers.RepeatedCompositeFieldContainer[TestOutcome]
    duration_ms: float
    def __init__(self, id: _Optional[str] = ..., status: _Optional[_Union[VerdictStatus, str]] = ..., reward: _Optional[float] = ..., reason: _Optional[str] = ..., extracted: _Optional[str] = ..., tests: _Optional[_Iterable[_Union[TestOutcome, _Mapping]]] = ..., duration_ms: _Optional[float] = ...) -> None: ...

class VerifyResponse(_message.Message):
    __slots__ = ("header", "verdicts")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    header: _common_pb2.Header
    verdicts: _containers.RepeatedCompositeFieldContainer[Verdict]
    def __init__(self, header: _Optional[_Union[_common_pb2.Header, _Mapping]] = ..., verdicts: _Optional[_Iterable[_Union[Verdict, _Mapping]]] = ...) -> None: ...

class VerifyJob(_message.Message):
    __slots__ = ("header", "group_id", "check")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    header: _common_pb2.Header
    group_id: str
    check: Check
    def __init__(self, header: _Optional[_Union[_common_pb2.Header, _Mapping]] = ..., group_id: _Optional[str] = ..., check: _Optional[_Union[Check, _Mapping]] = ...) -> None: ...
