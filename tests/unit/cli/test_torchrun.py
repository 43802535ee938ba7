"""The launcher's arguments on every torch that is allowed."""

from __future__ import annotations

from rgopd.cli.torchrun import command, known_to, on_loopback


def test_what_an_older_torchrun_does_not_know_is_left_out() -> None:
    given = command(2, ["train"])[4:]
    assert "--shutdown-timeout" in given
    assert known_to("[--shutdown-timeout SECONDS]", given) == given
    older = known_to("[--max-restarts N]", given)
    assert older == ["--standalone", "--nproc-per-node", "2", "--max-restarts", "3", "-m", "rgopd.cli.main", "train"]


def test_this_torch_takes_what_is_left() -> None:
    from torch.distributed.run import get_args_parser, parse_args

    arguments = known_to(get_args_parser().format_usage(), command(2, ["train", "--config", "x"])[4:])
    assert parse_args(arguments).nproc_per_node == "2"


def test_ranks_of_one_machine_meet_on_loopback_whatever_its_name() -> None:
    from torch.distributed.run import parse_args

    assert parse_args(on_loopback(command(2, ["train"])[4:])).local_addr == "127.0.0.1"
    nodes = ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "a:1", "-m", "rgopd.cli.main", "train"]
    assert on_loopback(nodes) == nodes
