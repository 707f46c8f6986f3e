"""What is said of a file that may not be read: which user, and which folder on the way is closed."""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path

import pytest

from pronghorn.errors import BadSetting
from pronghorn.settings import settle
from pronghorn.settings.layers import Layers
from pronghorn.system import env_file

NOBODY = pwd.getpwnam("nobody").pw_uid


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_the_user_and_the_closed_folder_are_named() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, file = Path(name), Path(name, "of_root")
        file.touch(mode=0o600)
        for mode, may_not in ((0o755, "read it"), (0o700, f"enter the folder {folder}")):
            folder.chmod(mode)
            os.seteuid(NOBODY)
            try:
                with pytest.raises(BadSetting, match=f"user nobody may not {may_not}\\..*\n.*Let that user read it"):
                    Layers(file=str(file)).settle()
                with pytest.raises(BadSetting, match=f"user nobody may not {may_not}\\."):
                    env_file.read(settle({"env_file": str(file)}))
            finally:
                os.seteuid(0)


def test_a_file_that_is_not_there_is_no_matter_of_rights(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"No such file or directory\.\n"):
        env_file.read(settle({"env_file": str(tmp_path / "gone")}))
