"""File systems that are small or read-only, mounted for a test where that is allowed."""

import shutil
import subprocess

import pytest


class Disks:
    """Mounts, all of which are taken away at the end."""

    def __init__(self):
        self._mounted = []

    def small(self, folder, kib):
        """An empty file system of so many KiB."""
        folder.mkdir(parents=True, exist_ok=True)
        self._mount(folder, "-t", "tmpfs", "-o", f"size={kib}k,mode=777", "tmpfs", folder)
        return folder

    def resize(self, folder, kib):
        _call("mount", "-o", f"remount,size={kib}k", folder)

    def read_only(self, folder):
        """The folder as it is, but nothing in it can be changed."""
        self._mount(folder, "--bind", folder, folder)
        _call("mount", "-o", "remount,bind,ro", folder)
        return folder

    def close(self):
        for folder in reversed(self._mounted):
            _call("umount", "--lazy", folder)

    def _mount(self, folder, *arguments):
        if not _call("mount", *arguments):
            pytest.skip("mounting is not allowed here")
        self._mounted.append(folder)


def _call(*command):
    """As root, or as who may become root without being asked."""
    for before in ([], ["sudo", "-n"]):
        if shutil.which((*before, *command)[0]):
            done = subprocess.run([*before, *command], capture_output=True)
            if done.returncode == 0:
                return True
    return False
