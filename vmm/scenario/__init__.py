"""The contract that files in ``scenarios/`` implement; they import from here only.

SCENARIO = Scenario(title="...", source="...", machine=MachineConfig(...), goals=("...",))

@SCENARIO.vcpu(0)
async def reader(cpu: Guest) -> None:
    await cpu.load(0x400000)
"""

from vmm.engine.cells import Cell, CellArray, Guard, Lock
from vmm.engine.events import AuditPoint, Event, Goal
from vmm.engine.monitor import Audit, Change, Finding, Monitor, Step, View
from vmm.engine.ops import (
    Op,
    atomically,
    audit_point,
    choose,
    fence,
    mark,
    observe,
    wait_until,
)
from vmm.engine.schedule import Picker, Schedule
from vmm.engine.task import TaskKind
from vmm.engine.world import ModelObject, World
from vmm.errors import UsageError
from vmm.hw.access import GeneralProtection, GuestFault
from vmm.hw.layout import REGION, page
from vmm.machine import MachineConfig
from vmm.scenario.contract import Parameter, Params, Scenario
from vmm.units import PAGE_BYTES, Gfn, Gpa, Gva, Hpa, Pfn
from vmm.vcpu.guest import Guest
from vmm.vcpu.host import Host
from vmm.workload.oracle import AsRecordedFactory
from vmm.workload.replay import Action, RecordedLinux, RecordedOrder, perform

__all__ = [
    "PAGE_BYTES",
    "REGION",
    "Action",
    "AsRecordedFactory",
    "Audit",
    "AuditPoint",
    "Cell",
    "CellArray",
    "Change",
    "Event",
    "Finding",
    "GeneralProtection",
    "Gfn",
    "Goal",
    "Gpa",
    "Guard",
    "Guest",
    "GuestFault",
    "Gva",
    "Host",
    "Hpa",
    "Lock",
    "MachineConfig",
    "ModelObject",
    "Monitor",
    "Op",
    "Parameter",
    "Params",
    "Pfn",
    "Picker",
    "RecordedLinux",
    "RecordedOrder",
    "Scenario",
    "Schedule",
    "Step",
    "TaskKind",
    "UsageError",
    "View",
    "World",
    "atomically",
    "audit_point",
    "choose",
    "fence",
    "mark",
    "observe",
    "page",
    "perform",
    "wait_until",
]
