"""Schedules: recurring runs of Kubeflow Pipelines, one of each name."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import kfp_server_api

from orchestration.kubeflow.connection import (
    FINAL_STATES,
    Connection,
    Target,
    check_names,
    create,
    doing,
    pages,
    taken_back_on_failure,
)
from orchestration.kubeflow.cron import six_fields
from orchestration.kubeflow.errors import KubeflowError, listed

if TYPE_CHECKING:
    from orchestration.kubeflow.package import Package, Value

CREATED, UPDATED, UNCHANGED = "created", "updated", "unchanged"
_TAKES_OVER = "Takes over from "


@dataclass(frozen=True)
class Schedule:
    """A recurring run.

    Attributes:
      schedule_id: ID of the recurring run.
      name: Its name.
      cron: When it runs: 6 fields, seconds first; "" if it runs by an interval.
      enabled: Whether it runs at all.
      parameters: The values that its runs get.
      url: Where the UI shows it.
    """

    schedule_id: str
    name: str
    cron: str
    enabled: bool
    parameters: Mapping[str, Value]
    url: str


class Schedules(Connection):
    """Operations on schedules."""

    def schedule(
        self,
        name: str,
        cron: str,
        package: Package,
        parameters: Mapping[str, Value],
        *,
        pipeline_name: str | None = None,
        experiment: str = "Default",
        service_account: str | None = None,
    ) -> tuple[Schedule, str]:
        """Sets up the one recurring run of a name: one run at a time, and no catching up.

        The server has no way to change a recurring run, so a schedule with other content is
        replaced. At no moment are two of them enabled, and the old one is not lost:

        1. The new one is created, disabled. If that fails, nothing has changed.
        2. The old one is disabled. If that fails, it is enabled again and the new one deleted.
        3. The new one is enabled. If that fails, the new one is deleted and the old one enabled.
           A time that comes between 2 and 3 is not lost: the new one, which is older than it, runs
           for it as soon as it is enabled.
        4. The old one is deleted. If that fails, the new one runs and the old one does not.

        The cluster stops what a schedule has started when the schedule is deleted. So while a run
        of the old one is in progress, it is not replaced.

        If this is killed in between, or nothing answers any longer, running it again puts things
        in order. Since a new one says in its description which one it takes over from, it can tell
        a schedule that it has disabled itself from one that a person has: that one stays disabled.

        Args:
          name: Name of the schedule. Others of that name are replaced.
          cron: When to run; see `six_fields`.
          package: The compiled pipeline.
          parameters: Values of its parameters; defaults of the package are sent for the others.
          pipeline_name: Name of the pipeline on the server, made if there is none. Default: that
            of the package.
          experiment: Name of the experiment; made if there is none.
          service_account: Kubernetes account that the tasks run as. Default: the server's.

        Returns:
          The schedule, and whether it was created, updated or is unchanged.

        Raises:
          KubeflowError: If the expression is wrong, the parameters do not fit, a run of a schedule
            that is to be replaced is in progress, or the server refuses.
        """
        pipeline_name = pipeline_name or package.name
        check_names(schedule=name, pipeline=pipeline_name, experiment=experiment)
        fields = six_fields(cron)
        values = package.complete(parameters)
        self._connect()
        with taken_back_on_failure() as made:
            target = self._prepare(package, pipeline_name, experiment, made)
            wanted = _Wanted(name, fields, values, target, service_account)
            existing = list(self._of_name(name))
            fitting = sorted(filter(wanted.fits, existing), key=_is_enabled, reverse=True)
            old = [one for one in existing if one not in fitting[:1]]
            for one in old:
                self._check_idle(one, "replaced")
            new = fitting[0] if fitting else self._create_recurring_run(wanted, existing)
            runs = not existing or any(map(_is_enabled, existing)) or _interrupted(existing)
            started = runs and not _is_enabled(new)
            if old or started:
                self._hand_over(old, new, created=not fitting, runs=runs)
        for one in old:
            with doing(f"delete {one.recurring_run_id}, the schedule that '{name}' replaces"):
                self._check_idle(one, "deleted")  # one may have begun before it was disabled
                self._recurring_runs.recurring_run_service_delete_recurring_run(
                    one.recurring_run_id
                )
        changed = CREATED if not existing else UPDATED if old or started else UNCHANGED
        return dataclasses.replace(self._described(new), enabled=runs), changed

    def schedules(self) -> list[Schedule]:
        """All schedules of the namespace, by name."""
        self._connect()
        found = map(self._described, self._of_name())
        return sorted(found, key=lambda schedule: schedule.name)

    def start_schedule(self, name: str) -> str:
        """Starts a run of a schedule now, with the version and the parameters that it has.

        Returns:
          ID of the run.

        Raises:
          KubeflowError: If there is no enabled schedule of this name, or several.
        """
        found = [one for one in self._recurring_runs_of(name) if _is_enabled(one)]
        if len(found) != 1:
            raise KubeflowError(f"{len(found) or 'None'} of the schedules '{name}' is enabled.")
        (one,) = found
        now = datetime.datetime.now(datetime.UTC)
        run_name = f"{name[:200]} {now:%Y-%m-%d %H-%M-%S-%f}"
        body = kfp_server_api.V2beta1Run(
            display_name=run_name,
            experiment_id=one.experiment_id,
            pipeline_version_reference=one.pipeline_version_reference,
            runtime_config=one.runtime_config,
            service_account=one.service_account,
        )

        def started() -> Any:
            service = self._runs.run_service_list_runs
            return next(pages("runs", service, run_name, experiment_id=one.experiment_id), None)

        run = create(
            f"start a run of the schedule '{name}'",
            lambda: self._runs.run_service_create_run(body),
            started,
        )
        return str(run.run_id)

    def enable_schedule(self, name: str) -> None:
        """Lets a schedule run; if it has missed times, it makes up for the last one at once.

        Raises:
          KubeflowError: If there is none of this name, or several.
        """
        found = self._recurring_runs_of(name)
        if len(found) > 1:
            raise KubeflowError(
                f"There are {len(found)} schedules '{name}': `schedule` puts that in order."
            )
        with doing(f"enable the schedule '{name}'"):
            self._recurring_runs.recurring_run_service_enable_recurring_run(
                found[0].recurring_run_id
            )

    def disable_schedule(self, name: str) -> None:
        """Stops a schedule from running; a run that has begun goes on.

        Raises:
          KubeflowError: If there is none of this name.
        """
        for one in self._recurring_runs_of(name):
            with doing(f"disable the schedule '{name}'"):
                self._recurring_runs.recurring_run_service_disable_recurring_run(
                    one.recurring_run_id
                )

    def delete_schedule(self, name: str) -> None:
        """Deletes a schedule; its runs stay.

        Raises:
          KubeflowError: If there is none of this name, or a run of it is in progress, which the
            cluster would stop.
        """
        found = self._recurring_runs_of(name)
        for one in found:
            self._check_idle(one, "deleted")
        for one in found:
            with doing(f"delete the schedule '{name}'"):
                self._recurring_runs.recurring_run_service_delete_recurring_run(
                    one.recurring_run_id
                )

    def _of_name(self, name: str | None = None) -> Iterator[Any]:
        service = self._recurring_runs.recurring_run_service_list_recurring_runs
        return pages("recurring_runs", service, name, namespace=self._namespace)

    def _recurring_runs_of(self, name: str) -> list[Any]:
        """Those of a name, of which there is at least one.

        Raises:
          KubeflowError: If there is none; names those that there are.
        """
        self._connect()
        found = list(self._of_name(name))
        if not found:
            names = listed({one.display_name for one in self._of_name()})
            raise KubeflowError(f"There is no schedule '{name}'; there are: {names or 'none'}.")
        return found

    def _check_idle(self, recurring_run: Any, done: str) -> None:
        """Checks that no run of a recurring run is in progress.

        Raises:
          KubeflowError: If there is one; names it.
        """
        newest_first = pages(
            "runs",
            self._runs.run_service_list_runs,
            experiment_id=recurring_run.experiment_id,
            sort_by="created_at desc",
        )
        for run in newest_first:
            ours = run.recurring_run_id == recurring_run.recurring_run_id
            if ours and run.state not in FINAL_STATES:
                raise KubeflowError(
                    f"The schedule '{recurring_run.display_name}' cannot be {done} while its run "
                    f"{run.run_id} is in progress, which that would stop: wait until it is over, "
                    "or terminate it."
                )
            # One at a time, so those before it are over.
            if ours or run.created_at < recurring_run.created_at:
                return

    def _create_recurring_run(self, wanted: _Wanted, existing: list[Any]) -> Any:
        """Creates a recurring run; disabled if others have the name."""
        known = {one.recurring_run_id for one in existing}
        replaced = [one for one in existing if _is_enabled(one)] or (
            existing if _interrupted(existing) else []
        )

        body = kfp_server_api.V2beta1RecurringRun(
            display_name=wanted.name,
            description=f"{_TAKES_OVER}{replaced[0].recurring_run_id}" if replaced else None,
            experiment_id=wanted.target.experiment_id,
            pipeline_version_reference=kfp_server_api.V2beta1PipelineVersionReference(
                wanted.target.pipeline_id, wanted.target.version_id
            ),
            runtime_config=kfp_server_api.V2beta1RuntimeConfig(parameters=wanted.parameters),
            trigger=kfp_server_api.V2beta1Trigger(
                cron_schedule=kfp_server_api.V2beta1CronSchedule(cron=wanted.cron)
            ),
            max_concurrency=1,
            no_catchup=True,
            mode=kfp_server_api.RecurringRunMode.DISABLE
            if existing
            else kfp_server_api.RecurringRunMode.ENABLE,
            service_account=wanted.service_account,
        )

        def created() -> Any:
            ours = self._of_name(wanted.name)
            return next((one for one in ours if one.recurring_run_id not in known), None)

        service = self._recurring_runs.recurring_run_service_create_recurring_run
        return create(f"create the schedule '{wanted.name}'", lambda: service(body), created)

    def _hand_over(self, old: list[Any], new: Any, *, created: bool, runs: bool) -> None:
        """Disables the old ones and then enables the new one; if that fails, undoes it.

        Args:
          old: Recurring runs to be replaced.
          new: Recurring run that replaces them.
          created: Whether it was created for this.
          runs: Whether it is to run.

        Raises:
          KubeflowError: If something fails; `unsure` if it could not be undone either.
        """
        stopped: list[str] = []
        tried_new = False
        try:
            for one in filter(_is_enabled, old):
                stopped.append(one.recurring_run_id)
                with doing(f"disable {one.recurring_run_id}, which is to be replaced"):
                    self._recurring_runs.recurring_run_service_disable_recurring_run(
                        one.recurring_run_id
                    )
            if runs and not _is_enabled(new):
                tried_new = True
                with doing(f"enable the schedule '{new.display_name}'"):
                    self._recurring_runs.recurring_run_service_enable_recurring_run(
                        new.recurring_run_id
                    )
        except KubeflowError as error:
            try:
                if created:
                    self._recurring_runs.recurring_run_service_delete_recurring_run(
                        new.recurring_run_id
                    )
                elif tried_new:
                    self._recurring_runs.recurring_run_service_disable_recurring_run(
                        new.recurring_run_id
                    )
                for schedule_id in stopped:
                    self._recurring_runs.recurring_run_service_enable_recurring_run(schedule_id)
            except KubeflowError as again:
                raise error.but(
                    f"{error} Nor could that be undone ({again}); run the command again when the "
                    "server answers, which puts the schedule in order.",
                    unsure=True,
                ) from error
            raise error.but(f"{error} The schedule is as it was.", unsure=False) from error

    def _described(self, found: Any) -> Schedule:
        trigger = found.trigger and found.trigger.cron_schedule
        return Schedule(
            schedule_id=found.recurring_run_id,
            name=found.display_name or "",
            cron=(trigger and trigger.cron) or "",
            enabled=_is_enabled(found),
            parameters=(found.runtime_config and found.runtime_config.parameters) or {},
            url=f"{self._ui}/#/recurringrun/details/{found.recurring_run_id}",
        )


@dataclass(frozen=True)
class _Wanted:
    """The wanted schedule."""

    name: str
    cron: str
    parameters: Mapping[str, Value]
    target: Target
    service_account: str | None

    def fits(self, found: Any) -> bool:
        """Whether a recurring run of the server is this one, enabled or not."""
        trigger = found.trigger and found.trigger.cron_schedule
        version = found.pipeline_version_reference
        return bool(
            trigger
            and (trigger.cron, trigger.start_time, trigger.end_time) == (self.cron, None, None)
            and version
            and version.pipeline_version_id == self.target.version_id
            and found.experiment_id == self.target.experiment_id
            and ((found.runtime_config and found.runtime_config.parameters) or {})
            == self.parameters
            # The server fills in its own account where none is given.
            and self.service_account in (None, found.service_account)
            and found.no_catchup
            and int(found.max_concurrency or 0) == 1  # int64, which JSON has as text
        )


def _is_enabled(found: Any) -> bool:
    return bool(found.status == "ENABLED")


def _interrupted(existing: Iterable[Any]) -> bool:
    """Whether one of them was to take over from another one, and was not enabled any more."""
    ids = {one.recurring_run_id for one in existing}
    return any(
        (one.description or "").removeprefix(_TAKES_OVER) in ids - {one.recurring_run_id}
        for one in existing
    )
