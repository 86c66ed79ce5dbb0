"""Each place of asv that a hook changes is checked when asv loads the plugin."""

import inspect
import pkgutil

import pytest
from asv.util import UserError

from asv_plugin import hooks
from asv_plugin.hooks import places, site

FILES = [pkgutil.resolve_name(f"asv_plugin.hooks.{each.name}") for each in pkgutil.iter_modules(hooks.__path__)]
HOOKS = [file for file in FILES if file not in (places, site)]


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.__name__.rpartition(".")[2])
def test_a_hook_refuses_an_asv_whose_place_is_another(hook, monkeypatch):
    for place in hook.PLACES:
        with monkeypatch.context() as patched:
            patched.setattr(place.replace(":", "."), lambda other: None)
            with pytest.raises(UserError, match=r"install asv==0\.6\.6"):
                hook.install()


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.__name__.rpartition(".")[2])
def test_a_hook_is_installed_with_the_others(hook):
    assert f"{hook.__name__.rpartition('.')[2]}.install()" in inspect.getsource(hooks.install)


def test_a_page_without_the_text_that_is_replaced_is_refused(monkeypatch):
    monkeypatch.setattr(site, "NAVIGATION", "no such text")
    with pytest.raises(UserError, match=r"www/index\.html"):
        site.check()
