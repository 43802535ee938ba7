"""The compiled filter, run by an interpreter of our own over every syscall number, equals the policy."""

from __future__ import annotations

import platform
import struct

import pytest

from rgopd.verifier.sandbox import seccomp
from rgopd.verifier.sandbox.syscall_numbers import AUDIT_ARCH, numbers


def evaluate(program: bytes, number: int, args: tuple[int, ...] = (), arch: int | None = None) -> int:
    """Classic BPF over a seccomp_data."""
    padded = (*args, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=IIQ6Q", number, AUDIT_ARCH[platform.machine()] if arch is None else arch, 0, *padded)
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator = position = 0
    while True:
        operation, jump_true, jump_false, operand = code[position]
        position += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("=I", data, operand)[0]
        elif operation == 0x54:
            accumulator &= operand
        elif operation == 0x15:
            position += jump_true if accumulator == operand else jump_false
        elif operation == 0x35:
            position += jump_true if accumulator >= operand else jump_false
        elif operation == 0x05:
            position += operand
        elif operation == 0x06:
            return int(operand)
        else:
            raise AssertionError(f"unknown instruction {operation:#x}")


@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.parametrize("signals", [False, True])
@pytest.mark.parametrize("metadata", [False, True])
def test_every_number_gets_what_the_policy_says(processes: bool, signals: bool, metadata: bool) -> None:
    policy = seccomp.policy(processes=processes, signals=signals, metadata=metadata)
    program = seccomp.program(policy)
    by_number = {number: policy[name] for name, number in numbers().items()}
    for number in range(1200):
        action = by_number.get(number, seccomp.EPERM)
        if isinstance(action, int):
            assert evaluate(program, number) == action, number


def decide(name: str, *args: int, processes: bool = True, signals: bool = True, metadata: bool = True) -> int:
    program = seccomp.program(seccomp.policy(processes=processes, signals=signals, metadata=metadata))
    return evaluate(program, numbers()[name], args)


def test_arguments() -> None:
    assert decide("clone", 0x11) == seccomp.ALLOW
    assert decide("clone", 0x10000011) == seccomp.EPERM  # CLONE_NEWUSER
    assert decide("clone", 0x3D0F00, processes=False) == seccomp.ALLOW  # a thread
    assert decide("clone", 0x11, processes=False) == seccomp.EPERM
    assert decide("clone", 0x10000000 | 0x10000, processes=False) == seccomp.EPERM
    assert decide("socketpair", 1, 1) == seccomp.ALLOW
    assert decide("socketpair", 1, 1 | 0x80000) == seccomp.ALLOW  # SOCK_CLOEXEC
    assert decide("socketpair", 1, 2) == seccomp.EPERM
    assert decide("socketpair", 2, 1) == seccomp.EPERM
    assert decide("fcntl", 0, 1) == seccomp.ALLOW
    assert decide("fcntl", 0, 8) == seccomp.EPERM  # F_SETOWN
    assert decide("ioctl", 0, 0x5401) == seccomp.ALLOW
    assert decide("ioctl", 0, 0x5412) == seccomp.EPERM  # TIOCSTI
    assert decide("prlimit64", 0) == seccomp.ALLOW
    assert decide("prlimit64", 1) == seccomp.EPERM
    assert decide("clone3") == seccomp.ENOSYS
    assert decide("kill", signals=False) == seccomp.EPERM
    for name in ("chmod", "fchmod", "fchmodat", "fchmodat2", "utimensat", "flock"):
        assert decide(name) == seccomp.ALLOW
        assert decide(name, metadata=False) == seccomp.EPERM


def test_other_architectures_and_x32_are_not_let_through() -> None:
    program = seccomp.program(seccomp.policy(processes=True, signals=True, metadata=True))
    assert evaluate(program, 0, arch=0x40000003) == seccomp.KILL_PROCESS
    assert evaluate(program, 0x40000000) == seccomp.EPERM
