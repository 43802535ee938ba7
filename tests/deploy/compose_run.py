"""`make test-compose`: build, start, call, attack, kill, upgrade, finish, take down. All it needs is a Docker engine.

Where no public image can be pulled it makes its own base (needs root and debootstrap). The log goes to stdout; the
Makefile keeps it in docs/logs/compose.log.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from tests.deploy import checks
from tests.deploy.build import build, build_attacks, build_next, choose_images, fetch_wheels
from tests.deploy.engine import Engine, say, wait_for

VERSION, NEXT = "0.1.0", "0.1.1-next"
STEPS = 120  # more than the checks, the kills and the upgrades take on a fast machine
PROJECT = "rgopd-test"


class Run:
    """One demo run in compose, and what happens to it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def rows(self, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
        """The run's file, read through a container that mounts the volume."""
        [trainer] = self.engine.containers("trainer")
        image = self.engine.inspect(trainer)["Config"]["Image"]
        volume = f"{PROJECT}_runs:/runs:ro"
        command = ["run", "--rm", "--network", "none", "-v", volume, "--entrypoint", "cat", image, f"/runs/demo/{name}"]
        lines = self.engine.docker(*command, check=False).splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def steps(self) -> list[dict[str, Any]]:
        """The step rows so far."""
        return [row for row in self.rows() if row["event"] == "step"]

    def wait_for_step(self, step: int, timeout_s: float = 900) -> None:
        """Until that many steps are done."""
        waited = wait_for(f"step {step}", lambda: len(self.steps()) >= step, timeout_s, every_s=3.0)
        say(f"step {step} is done ({waited:.0f} s)")

    def wait_for_end(self, timeout_s: float = 1800) -> None:
        """Until the trainer's container has ended with 0; Docker may restart it in between."""

        def ended() -> bool:
            state = self.engine.inspect(self.engine.containers("trainer")[0])["State"]
            return state["Status"] == "exited" and state["ExitCode"] == 0

        waited = wait_for("end of the run", ended, timeout_s)
        say(f"the run ended with 0 ({waited:.0f} s)")


def report_images(engine: Engine) -> None:
    """Sizes; and the verifier's image holds neither torch nor another service."""
    for service in ("verifier", "teacher", "sampler", "trainer"):
        image = json.loads(engine.docker("image", "inspect", f"rgopd-{service}:{VERSION}"))[0]
        assert image["Config"]["User"] not in ("", "0", "root"), service
        assert image["Config"]["Healthcheck"], service
        assert image["Config"]["Labels"]["org.opencontainers.image.version"] == VERSION
        say(f"image rgopd-{service}: {image['Size'] / 1e6:.0f} MB, user {image['Config']['User']}")
    absent = ("torch", "rgopd.teacher", "rgopd.trainer")
    program = f"import importlib.util as u; print([m for m in {absent} if u.find_spec(m)])"
    image_run = [
        "run",
        "--rm",
        "--network",
        "none",
        "--entrypoint",
        "python",
        f"rgopd-verifier:{VERSION}",
        "-c",
        program,
    ]
    assert engine.docker(*image_run).strip() == "[]"
    say("the verifier's image has no torch and no other service")


def start(engine: Engine) -> None:
    """`up` with three verifiers, two teachers and two samplers."""
    scale = [f"--scale={name}" for name in ("verifier=3", "teacher=2", "sampler=2")]
    started = time.monotonic()
    engine.compose("up", "-d", *scale)
    say(f"up: every health gate passed after {time.monotonic() - started:.0f} s")


def attack(engine: Engine) -> None:
    """The attack suite in the verifier's own container settings."""
    files = ["-f", "docker-compose.yml", "-f", "tests/deploy/compose.attacks.yml"]
    output = engine.compose(*files, "run", "--rm", "--no-deps", "-T", "verifier", check=False)
    summary = output.strip().splitlines()[-1] if output.strip() else "no output"
    assert " passed" in summary, output[-3000:]
    assert not any(word in summary for word in ("failed", "error")), output[-3000:]
    say(f"attack suite inside the verifier's container: {summary}")


def kill_in_mid_run(engine: Engine, run: Run) -> None:
    """A sampler, a verifier and then the trainer itself die by SIGKILL."""
    for service in ("sampler", "verifier", "trainer"):
        at = len(run.steps())
        [container, *_] = engine.containers(service)
        before = engine.inspect(container)["RestartCount"]
        engine.kill_inside(container)
        wait_for(f"{service} restarts", lambda c=container, n=before: engine.inspect(c)["RestartCount"] > n, 120)
        say(f"killed a {service} at step {at}; Docker restarted it")
        run.wait_for_step(min(STEPS, at + 3))


def upgrade(engine: Engine, run: Run) -> None:
    """Teacher, verifier and sampler roll to the next release while the run goes on and a client keeps calling."""
    environment = {
        "VERSION": NEXT,
        "COMPOSE": " ".join(engine.compose_command),
        "DOCKER": " ".join(engine.docker_command),
    }
    with checks.Client() as client:
        for service in ("verifier", "teacher", "sampler"):
            at = len(run.steps())
            engine.run(["sh", "deploy/docker/roll.sh", service], environment=environment)
            images = {engine.inspect(c)["Config"]["Image"] for c in engine.containers(service)}
            assert images == {f"rgopd-{service}:{NEXT}"}, images
            say(f"rolled {service} to {NEXT} between steps {at} and {len(run.steps())}")
    assert set(client.outcomes) == {"ok"}, client.outcomes
    say(f"{client.outcomes['ok']} calls from outside during the upgrade, none failed")
    assert len(run.steps()) < STEPS, "the run ended before the upgrade did: raise STEPS"


def assert_whole(run: Run) -> None:
    """Every step once, in order; no stage failed; accuracy was measured before and after."""
    rows = run.rows()
    steps = [row for row in rows if row["event"] == "step"]
    assert [row["step"] for row in steps] == list(range(STEPS)), [row["step"] for row in steps]
    failures = {row["step"]: row["stage_failures"] for row in steps if row["stage_failures"]}
    assert not failures, failures
    assert not any(row["dropped_groups"] or row["verdicts"]["error"] for row in steps)
    accuracy = {row["step"]: row["accuracy"] for row in rows if row["event"] == "eval"}
    assert set(accuracy) >= {0, STEPS}, accuracy
    say(f"{len(steps)} steps, each once, none failed; accuracy {accuracy}")


def main() -> int:
    """All of it; whatever happens, everything is taken down."""
    engine = Engine({"COMPOSE_PROJECT_NAME": PROJECT, "VERSION": VERSION, "STEPS": str(STEPS), "RUN_ID": "demo"})
    started = time.monotonic()
    version = engine.docker("version", "--format", "{{.Server.Version}}").strip()
    say(f"docker {version}; {engine.compose('version').splitlines()[0]}")
    choose_images(engine)
    fetch_wheels(engine)
    for what, make in (("images", lambda: build(engine, VERSION)), ("attacks", lambda: build_attacks(engine, VERSION))):
        make()
        say(f"built {what} ({time.monotonic() - started:.0f} s since the start)")
    build_next(engine, NEXT)
    say(f"built {NEXT}: its message headers carry a field that {VERSION} does not know")
    report_images(engine)
    engine.compose("--profile", "gpu", "config", "-q")
    run = Run(engine)
    try:
        start(engine)
        run.wait_for_step(2)
        checks.call_both_doors()
        for service in ("redis", "teacher", "verifier", "sampler", "trainer", "gateway"):
            checks.assert_hardened(engine, service)
        checks.assert_rung(engine)
        checks.assert_no_way_out(engine)
        checks.assert_redis_users(engine)
        checks.assert_balanced(engine, "verifier", 8002, "rgopd_verify_messages_total")
        checks.assert_balanced(engine, "teacher", 8001, "rgopd_score_messages_total")
        checks.assert_doctor(engine)
        kill_in_mid_run(engine, run)
        upgrade(engine, run)
        run.wait_for_end()
        assert_whole(run)
        checks.report_traffic(engine, sum(row["response_tokens"] for row in run.steps()))
        attack(engine)
    except BaseException:
        sys.stdout.write(engine.compose("logs", "--no-color", "--tail=30", check=False)[-12000:])
        raise
    finally:
        engine.compose("--profile", "gpu", "down", "--volumes", "--remove-orphans", check=False)
        say("taken down")
    left = engine.docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={PROJECT}").split()
    assert not left, left
    say(f"all of it held, {time.monotonic() - started:.0f} s; the checkout is as before")
    return 0


if __name__ == "__main__":
    sys.exit(main())
