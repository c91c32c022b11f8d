from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Packed(_message.Message):
    __slots__ = ("tree", "protocol", "software")
    TREE_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    tree: bytes
    protocol: int
    software: str
    def __init__(self, tree: _Optional[bytes] = ..., protocol: _Optional[int] = ..., software: _Optional[str] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("hello", "welcome", "begin", "chunk", "done", "beat", "bye")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    BYE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    welcome: Welcome
    begin: Begin
    chunk: Chunk
    done: Done
    beat: Beat
    bye: Bye
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., begin: _Optional[_Union[Begin, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., done: _Optional[_Union[Done, _Mapping]] = ..., beat: _Optional[_Union[Beat, _Mapping]] = ..., bye: _Optional[_Union[Bye, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "software", "session", "open", "about", "mark", "remembered")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    ABOUT_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    REMEMBERED_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    software: str
    session: str
    open: _containers.RepeatedCompositeFieldContainer[Progress]
    about: bytes
    mark: Mark
    remembered: Mark
    def __init__(self, protocol: _Optional[int] = ..., software: _Optional[str] = ..., session: _Optional[str] = ..., open: _Optional[_Iterable[_Union[Progress, _Mapping]]] = ..., about: _Optional[bytes] = ..., mark: _Optional[_Union[Mark, _Mapping]] = ..., remembered: _Optional[_Union[Mark, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("protocol", "software", "open", "heartbeat_ms", "time_ms", "mark", "remembered")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    REMEMBERED_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    software: str
    open: _containers.RepeatedCompositeFieldContainer[Progress]
    heartbeat_ms: int
    time_ms: int
    mark: Mark
    remembered: Mark
    def __init__(self, protocol: _Optional[int] = ..., software: _Optional[str] = ..., open: _Optional[_Iterable[_Union[Progress, _Mapping]]] = ..., heartbeat_ms: _Optional[int] = ..., time_ms: _Optional[int] = ..., mark: _Optional[_Union[Mark, _Mapping]] = ..., remembered: _Optional[_Union[Mark, _Mapping]] = ...) -> None: ...

class Mark(_message.Message):
    __slots__ = ("lineage", "count", "restored")
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    RESTORED_FIELD_NUMBER: _ClassVar[int]
    lineage: str
    count: int
    restored: str
    def __init__(self, lineage: _Optional[str] = ..., count: _Optional[int] = ..., restored: _Optional[str] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("id", "received")
    ID_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    id: int
    received: int
    def __init__(self, id: _Optional[int] = ..., received: _Optional[int] = ...) -> None: ...

class Begin(_message.Message):
    __slots__ = ("id", "size", "data", "done")
    ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    id: int
    size: int
    data: bytes
    done: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, id: _Optional[int] = ..., size: _Optional[int] = ..., data: _Optional[bytes] = ..., done: _Optional[_Iterable[int]] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("id", "offset", "data")
    ID_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    id: int
    offset: int
    data: bytes
    def __init__(self, id: _Optional[int] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class Beat(_message.Message):
    __slots__ = ("time_ms", "mark")
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    time_ms: int
    mark: Mark
    def __init__(self, time_ms: _Optional[int] = ..., mark: _Optional[_Union[Mark, _Mapping]] = ...) -> None: ...

class Bye(_message.Message):
    __slots__ = ("rule", "what", "remedy")
    RULE_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    rule: str
    what: str
    remedy: str
    def __init__(self, rule: _Optional[str] = ..., what: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...
