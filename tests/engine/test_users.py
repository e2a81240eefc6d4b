"""Users, groups, HOME and environment: as `docker exec` would have it in the same container."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from remote_env import Client, Sandbox
from tests.engine.conftest import MakeImage, MakeSandbox
from tests.support.server import NONROOT, SMALL

PEOPLE = """
cat >> /etc/passwd <<'END'
dev:x:2000:2000:a developer:/home/dev:/bin/sh
twin:x:2000:50:the same number:/home/twin:/bin/sh
bare:x:2001:2001::
homeless:x:2002:2002::/no/such/home:/bin/sh
3000:x:2003:2003:a name of digits:/home/digits:/bin/sh
not a line of the file
END
cat >> /etc/group <<'END'
dev:x:2000:
build:x:2100:dev,app
docs:x:2101:app,dev
empty:x:2102:
broken line
END
mkdir -p /home/dev
"""
IDS = "(id -u; id -g; id -G) 2>/dev/null; pwd"


@pytest.fixture(scope="module")
def people(client: Client, make_image: MakeImage) -> Iterator[Sandbox]:
    """A sandbox whose image has users and groups of its own."""
    with client.create_sandbox(make_image(PEOPLE), memory_bytes=SMALL) as sandbox:
        yield sandbox


def docker_exec(sandbox: Sandbox, command: str, *options: str) -> subprocess.CompletedProcess[str]:
    words = ["docker", "exec", *options, str(sandbox.container_id), "sh", "-c", command]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "user",
    [
        "root", "0", "app", "1000", "dev", "2000", "homeless", "nobody", "3000",
        "dev:build", "dev:2100", "2000:docs", "app:0", "0:1000", "root:staff", "4242", "4242:4343", "4242:build", "dev:9999",
    ],
)  # fmt: skip
def test_user_has_ids_groups_and_home_as_docker_exec_gives_them(people: Sandbox, user: str) -> None:
    question = f"{IDS}; echo $HOME"
    engine = docker_exec(people, question, "--user", user)
    assert engine.returncode == 0, engine.stderr
    assert people.run(question, user=user).text == engine.stdout


@pytest.mark.parametrize(("user", "home"), [("twin", "/home/twin"), ("bare", "/"), ("2001", "/")])
def test_user_whose_home_docker_exec_gets_wrong_has_the_one_of_passwd_or_else_the_root(people: Sandbox, user: str, home: str) -> None:
    # docker exec gives a name the home of the first name with the same number, and an empty HOME where passwd has none.
    assert people.run(IDS, user=user).text == docker_exec(people, IDS, "--user", user).stdout
    assert people.run("echo $HOME", user=user).text == f"{home}\n"


@pytest.mark.parametrize("user", ["nobody-of-that-name", "dev:no-such-group", "no:such", "99999999999"])
def test_user_that_docker_exec_refuses_is_refused(people: Sandbox, user: str) -> None:
    assert docker_exec(people, "true", "--user", user).returncode != 0
    execution = people.run("true", user=user)
    assert execution.outcome is not None and execution.outcome.reason == "no_such_user"
    assert execution.outcome.ran is False


@pytest.mark.parametrize("user", ["root", "dev", "4242"])
def test_environment_is_as_docker_exec_sets_it(people: Sandbox, user: str) -> None:
    engine = docker_exec(people, "env | sort", "--user", user)
    assert people.run("env | sort", user=user).text == engine.stdout


def test_environment_of_image_and_sandbox_is_as_docker_exec_sets_it(make_sandbox: MakeSandbox, make_image: MakeImage) -> None:
    image = make_image("true", "ENV FROM_IMAGE=image BOTH=image EMPTY=", "ENV PATH=/opt/bin:/bin:/usr/bin")
    sandbox = make_sandbox(image, env={"FROM_SANDBOX": "sandbox", "BOTH": "sandbox"})
    said = sandbox.run("env | sort").text
    assert said == docker_exec(sandbox, "env | sort").stdout
    assert {"FROM_IMAGE=image", "FROM_SANDBOX=sandbox", "BOTH=sandbox", "EMPTY=", "PATH=/opt/bin:/bin:/usr/bin"} <= set(said.split("\n"))


@pytest.mark.parametrize("user", ["root", "app"])
def test_home_of_the_image_is_every_users_home(make_sandbox: MakeSandbox, make_image: MakeImage, user: str) -> None:
    sandbox = make_sandbox(make_image("true", "ENV HOME=/elsewhere"))
    assert sandbox.run("echo $HOME", user=user).text == "/elsewhere\n"
    assert docker_exec(sandbox, "echo $HOME", "--user", user).stdout == "/elsewhere\n"


def test_home_of_the_sandboxs_environment_is_every_users_home(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox(env={"HOME": "/elsewhere"})
    assert sandbox.run("echo $HOME", user="app").text == "/elsewhere\n"


def test_home_of_the_command_goes_before_the_users(shared: Sandbox) -> None:
    assert shared.run("echo $HOME", user="app", env={"HOME": "/own"}).text == "/own\n"


def test_images_user_and_environment_are_the_commands(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox(NONROOT)
    assert sandbox.run("id -un; echo $IMAGE_SETTING; echo $HOME").text == "app\nkept\n/home/app\n"
    assert sandbox.run("id -un; pwd", user="root").text == "root\n/home/app\n"
    assert sandbox.run("touch mine && stat -c %U mine").text == "app\n"


def test_user_of_the_sandbox_goes_before_the_images(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox(NONROOT, user="nobody:staff", workdir="/")
    assert sandbox.run("id -un; id -gn").text == "nobody\nstaff\n"


def test_ordinary_user_has_no_capabilities_and_cannot_become_root(shared: Sandbox) -> None:
    execution = shared.run("grep -E '^Cap(Eff|Prm)' /proc/self/status; touch /root/mine 2>/dev/null || echo refused", user="app")
    assert execution.text == "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nrefused\n"


def test_root_of_the_sandbox_can_do_what_installers_do(sandbox: Sandbox) -> None:
    commands = "touch /f; chown app:staff /f; chmod 4755 /f; su app -c 'id -un'; chroot / true; mkdir /d; chmod 700 /d; stat -c %U:%G:%a /f"
    assert sandbox.run(f"set -e; {commands}").text == "app\napp:staff:4755\n"
