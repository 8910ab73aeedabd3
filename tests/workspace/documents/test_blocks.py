"""What documents show works: their Python runs, their commands are understood, their configuration files train."""

from __future__ import annotations

import ast

import pytest
from blocks import LANGUAGES, blocks_of, commands, setup_of, steps


def test_what_a_document_shows_works(document, root, run_page):
    text = document.read_text(encoding="utf-8")
    if not steps(text):
        return
    code, printed = run_page(str(document.relative_to(root)), text)
    assert code == 0, printed


def test_fences_are_understood(document):
    """A misspelt `norun` would be rendered as code and run as code; a reason that is missing is no reason."""
    for block in blocks_of(document.read_text(encoding="utf-8")):
        assert not block.unknown, f"line {block.line - 1}: {block.unknown!r} means nothing"
        if block.reason is not None:
            assert block.language in LANGUAGES
            assert len(block.reason.split()) > 1, f"line {block.line - 1}: why is it not run?"


def test_code_compiles(document):
    """What is not run is at least Python."""
    for block in blocks_of(document.read_text(encoding="utf-8")):
        if block.language == "python":
            # An offset in blank lines, so that an error names the line of the document.
            compile("\n" * (block.line - 1) + block.code, str(document), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


# -- the checks themselves ---------------------------------------------------------------------------------------------


def test_blocks_are_found_where_they_stand():
    text = (
        "text\n\n```python\na = 1\n```\n\n- item\n\n  ```python norun: needs a GPU\n  b = 2\n  ```\n\n"
        '```bash title="x.sh"\nls\n```\n\n```yaml rnu\n{}\n```\n'
    )
    first, second, third, fourth = blocks_of(text)
    assert (first.line, first.language, first.code, first.reason) == (4, "python", "a = 1\n", None)
    assert (second.line, second.code, second.reason) == (10, "b = 2\n", "needs a GPU")
    assert (third.title, third.language) == ("x.sh", "bash")
    assert fourth.unknown == "rnu"


def test_commands_are_put_together():
    assert list(commands("# no command\none \\\n  --more\n\ntwo\n")) == [(1, "one   --more"), (4, "two")]


def test_a_document_may_ask_for_a_setup():
    assert setup_of("# Title\n\n<!-- setup: classifier -->\n") == "classifier"
    assert setup_of("text `<!-- setup: classifier -->`") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```python\na = 1\n```\n```python\nassert a == 2\n```\n", "page, line 5"),
        ("```python\n\n1 / 0\n```\n", 'File "page", line 3'),
        ("```bash\nthunderstone lits\n```\n", "no command 'lits'"),
        ("```bash\nthunderstone run --wiht sam train.py\n```\n", "--wiht"),
        ("```bash\nthunderstone run --with sam:roh=1 train.py\n```\n", "rho"),
        ("```bash\nthunderstone compare --metric x --setting plain --setting nosuch train.py\n```\n", "nosuch"),
        ("```bash\nthunderstone compare --luncher ray …\n```\n", "has no ['--luncher']"),
        ("```bash\npython examples/nosuch.py\n```\n", "there is no such script"),
        ("```bash\npython examples/label_noise.py --nosuch 1\n```\n", "has no ['--nosuch']"),
        ("```bash\nmake nosuch\n```\n", "no target 'nosuch'"),
        ("```bash\npip install 'thunderstone[nosuch]'\n```\n", "no extra ['nosuch']"),
        ("```bash\nfrobnicate\n```\n", "what is 'frobnicate'"),
        ('```python title="x.py"\nimport sys\nsys.exit(3)\n```\n```bash\npython x.py\n```\n', "exit code 3"),
        ("```yaml\na: [\n```\n", "page, line 2"),
        ("```yaml\ntrainer: {}\n```\n", "needs a set-up"),
        ("<!-- setup: classifier -->\n```yaml\ntrainer: {nosuch: 1}\n```\n", "nosuch"),
        ("<!-- setup: classifier -->\n```python\nraise SystemExit\n```\n", "SystemExit"),
    ],
)
def test_what_does_not_work_is_found(text, said, run_page):
    code, printed = run_page("page", text)
    assert code != 0
    assert said in printed


def test_what_hangs_is_ended(run_page):
    code, _ = run_page("page", "```python\nimport time\ntime.sleep(60)\n```\n", timeout=0.2)
    assert code == 124


def test_what_is_not_to_be_run_is_not(run_page):
    text = "```python norun: it would raise\n1 / 0\n```\n```bash norun: no data\npython examples/label_noise.py\n```\n"
    assert run_page("page", text) == (0, "")


def test_a_page_has_its_setup_and_its_files(run_page, tmp_path):
    text = (
        "<!-- setup: classifier -->\n"
        "```python\nfrom lightning.pytorch import Trainer\nfrom thunderstone_sharpness import SAM\n"
        "trainer = Trainer(callbacks=[SAM()])\n```\n"
        '```python title="more.py"\nfrom pathlib import Path\nPath("written").touch()\n```\n'
        "```bash\nthunderstone run --with sam:rho=0.1 train.py\npython more.py\n```\n"
        "```yaml\ntrainer:\n  callbacks:\n    - class_path: thunderstone_sharpness.SAM\n```\n"
    )
    code, printed = run_page("page", text)
    assert code == 0, printed
    assert (tmp_path / "page" / "written").exists()
