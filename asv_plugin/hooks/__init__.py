"""What is changed in asv, one subject a file. Each checks at load that asv is as it knows it (`places`)."""

from asv_plugin.hooks import (
    broken_files,
    compare,
    escaping,
    find,
    floor,
    git_names,
    log,
    machine,
    notes,
    progress,
    publish,
    regressions,
    repository,
    selection,
    site,
)


def install() -> None:
    """Change asv in this process; UserError, which asv prints, where it is another asv than the supported one."""
    log.install()
    selection.install()
    repository.install()
    notes.install()
    machine.install()
    progress.install()
    broken_files.install()
    site.check()
    compare.install()
    find.install()
    floor.install()
    git_names.install()
    regressions.install()
    escaping.install()
    publish.install()
