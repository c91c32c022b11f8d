"""What travels to join, as JSON: the base of every message, and its smallest parts."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unisono.network.enrolment.refusals import refused

Hex16 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Pem = Annotated[str, Field(max_length=4096)]


class Message(BaseModel):
    """What travels, as JSON: frozen, nothing unknown, bounded; what was sent is never repeated in an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    def encode(self) -> bytes:
        """As JSON."""
        return self.model_dump_json().encode()

    @classmethod
    def read(cls, content: bytes) -> Self:
        """What `encode` wrote. `EnrolmentError` on anything else."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise refused(
                "A message of joining cannot be read.",
                "join-message",
                "Both ends must run the same version of Unisono; if a file was carried, carry it again.",
            ) from error
