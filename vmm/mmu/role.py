"""The role of a shadow page: what, beside its gfn, makes it the right one to use.

The same guest frame may serve as a table of several modes at once, one on each vCPU. Its shadow
pages lie side by side in the cache and are told apart by their roles. The fields other than level,
quadrant, direct and access are the control state that decides what a gpte comes to as an spte.

Of a 32-bit table, which has 1024 entries of 4 bytes, a shadow page covers a part, its quadrant: one
half of a page table, one quarter of a page directory, each of whose entries maps 4M, two sptes.

EFLAGS.AC is in no role, neither here nor in KVM. So one thing differs from a processor while CR0.WP
is clear and SMAP on: once the supervisor, with AC set, has written a page that is the user's and
read-only, its spte is the supervisor's, which AC = 0 does not keep out. The guest loses the
protection of SMAP for that page until the user touches it.

    supervisor, AC = 1                     supervisor, AC = 0
    store: user's page, read-only
        spte := w, not u
                                           load: goes through; a processor gives #PF

KVM's mmu.rst says of this case only that the check of rights gives #PF; but that is made at a
fault, and here is none.

Source: KVM cea0f0e7ea (2007), d28c6cfbbc (2007, access bits), 9645bb56b3 (2010, nxe), 3dbe141595
(2010, cr0_wp), 411c588dfb (2011, smep_andnot_wp), 898761158b (2015, minded by emulated stores too),
0be0226f07 (2015, smap_andnot_wp), Documentation/virt/kvm/x86/mmu.rst. The numbers of nxe and
smep_andnot_wp could not be looked up: a doubt. ``pse`` is no role bit of KVM's; here it is one,
since vCPUs may share a root and differ in CR4.PSE.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from vmm.bits import U, W, describe_rights
from vmm.hw.layout import GUEST_MAXPHYADDR
from vmm.hw.paging import FORMATS, HOST, Controls, PagingMode
from vmm.units import (
    ENTRIES_PER_TABLE,
    LEVEL_BITS,
    PAGE_SHIFT,
    Gfn,
    Gpa,
    Gva,
    gfn_to_gpa,
    page_offset,
)

PAE_ROOT_LEVEL = 2
"""Level of the four roots of a vCPU whose shadow is walked in PAE format."""
PAE_ROOTS = 4

_MODES = {form.root_level: mode for mode, form in FORMATS.items()}


class Role(NamedTuple):
    """``level`` 1..5 of this shadow table.

    ``direct`` pages shadow no guest table but a stretch of a large guest page, or of memory while
    paging is off (KVM of the time: metaphysical); ``access`` are the rights that the upper levels
    of the guest walk leave over. ``glevels``: levels of the guest's walk, 0 without paging.
    ``owner`` is 0 for shared pages; without the cache, the vCPU number plus one. ``invalid`` pages
    are zapped, but still in use: no lookup finds them.
    """

    level: int
    direct: bool
    access: int
    glevels: int = 4
    quadrant: int = 0
    nxe: bool = True
    pse: bool = False
    wp: bool = True
    smep_andnot_wp: bool = False
    smap_andnot_wp: bool = False
    owner: int = 0
    invalid: bool = False

    def __str__(self) -> str:
        words = (" direct" if self.direct else "") + (" invalid" if self.invalid else "")
        return f"l{self.level}{words} {describe_rights(self.access)}{self._context()}"

    @property
    def has_gptes(self) -> bool:
        """Whether its sptes follow gptes, so that their table must stay write-protected."""
        return not self.direct and not self.invalid

    def _context(self) -> str:
        """What is not as in a 64-bit guest of today."""
        words = [] if self.glevels == 4 else [_MODES[self.glevels].value]
        words += [f"quadrant {self.quadrant}"] if self.glevels == 2 and not self.direct else []
        words += ["nx off"] if self.glevels > 2 and not self.nxe else []
        words += [] if self.wp else ["wp off"]
        return "".join(f", {word}" for word in words)

    @property
    def controls(self) -> Controls:
        """The guest's control state, as far as it decides what the gptes of the table mean."""
        return _controls(self.glevels, self.nxe, self.pse, self.wp)

    @property
    def gpte_bytes(self) -> int:
        """Size of the entries of the guest table."""
        return 4 if self.glevels == 2 else 8

    def indexes_of(self, gpa: int) -> tuple[int, ...]:
        """The sptes of this page that shadow the gpte at ``gpa``; none: it is of another quadrant.

        Source: KVM ac1b714e78, 6b8d0f9b18 (2007, two of a 32-bit pde), fce0657ff9 (2007, quadrant).
        """
        index = page_offset(gpa) // self.gpte_bytes
        if self.glevels != 2:
            return (index,)
        wide = range(index * self.level, index * self.level + self.level)
        return tuple(
            at % ENTRIES_PER_TABLE for at in wide if at // ENTRIES_PER_TABLE == self.quadrant
        )

    def gpte_of(self, gfn: Gfn, index: int) -> Gpa:
        """Where the gpte lies that spte ``index`` of a level-1 page of ``gfn`` shadows."""
        first = ENTRIES_PER_TABLE * self.quadrant if self.glevels == 2 else 0
        return Gpa(gfn_to_gpa(gfn) + self.gpte_bytes * (first + index))

    def below(self, gva: Gva, level: int, access: int) -> Role:
        """The role of the shadow of a guest table on the way to ``gva``."""
        quadrant = 0
        if self.glevels == 2:
            quadrant = gva >> PAGE_SHIFT + LEVEL_BITS * level & (1 << level) - 1
        return self._replace(level=level, access=access, quadrant=quadrant)


@cache
def root_role(controls: Controls) -> Role:
    """The role of a root (of quadrant 0), from which all others of a walk are made.

    Nothing above a root takes rights away. Long modes have one root; the others have four of level
    2, which the vCPU's pae_root leads to.
    """
    mode = controls.mode
    glevels = FORMATS[mode].root_level
    paging = mode is not PagingMode.NONE
    return Role(
        level=max(glevels, PAE_ROOT_LEVEL) if controls.long_mode else PAE_ROOT_LEVEL,
        direct=not paging,
        access=W | U,
        glevels=glevels,
        nxe=glevels > 2 and controls.nxe,
        pse=mode is PagingMode.BITS32 and controls.pse,
        wp=not paging or controls.wp,
        smep_andnot_wp=paging and controls.smep and not controls.wp,
        smap_andnot_wp=paging and controls.smap and not controls.wp,
    )


@cache
def shadow_controls(guest: Controls) -> Controls:
    """What the processor's walks of the shadow run under while the guest has these controls.

    CR0.WP and EFER.NX are always set (KVM ac6c2bc592, 2007). SMEP and SMAP are the guest's as long
    as it pages: the processor knows none without paging, but the shadow is paging all the same.
    """
    return HOST._replace(smep=guest.pg and guest.smep, smap=guest.pg and guest.smap, ac=guest.ac)


@cache
def _controls(glevels: int, nxe: bool, pse: bool, wp: bool) -> Controls:
    return Controls.of(_MODES[glevels], nxe=nxe, pse=pse, wp=wp, maxphyaddr=GUEST_MAXPHYADDR)
