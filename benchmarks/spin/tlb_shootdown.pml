/*
 * The world of scenarios/calibration/tlb_shootdown.py: one transition for each shared access.
 *
 * VCPUS, FLUSHERS, ENTRIES, PUBLISH_FIRST: as the scenario's parameters. A process that has ended
 * waits at a valid end state, with its locals cleared, since the end of a Promela process would be
 * a transition of its own.
 */

#ifndef VCPUS
#define VCPUS 2
#endif
#ifndef FLUSHERS
#define FLUSHERS 1
#endif
#ifndef ENTRIES
#define ENTRIES 2
#endif
#ifndef PUBLISH_FIRST
#define PUBLISH_FIRST 1
#endif

#define EMPTY 255

byte owner, pte;
bit freed[FLUSHERS + 1];
bit in_guest[VCPUS], request[VCPUS];
byte tlb[VCPUS] = EMPTY;

active [VCPUS] proctype vcpu() {
	byte round, frame;
next:
#if PUBLISH_FIRST
	in_guest[_pid] = 1;
	if
	:: d_step { request[_pid] == 1 -> request[_pid] = 0 };
		in_guest[_pid] = 0;
		tlb[_pid] = EMPTY;
		goto next
	:: request[_pid] == 0
	fi;
#else
	if
	:: d_step { request[_pid] == 1 -> request[_pid] = 0 };
		tlb[_pid] = EMPTY
	:: request[_pid] == 0
	fi;
	in_guest[_pid] = 1;
#endif
	if
	:: d_step { tlb[_pid] == EMPTY -> frame = EMPTY };
		frame = pte;
		tlb[_pid] = frame
	:: d_step { tlb[_pid] != EMPTY -> frame = tlb[_pid] }
	fi;
	assert(!freed[frame]);
	if
	:: d_step { round < ENTRIES - 1 -> in_guest[_pid] = 0; round++ }; goto next
	:: d_step { round == ENTRIES - 1 -> in_guest[_pid] = 0; round = 0; frame = 0 }
	fi;
end_vcpu:
	false
}

active [FLUSHERS] proctype flusher() {
	byte old, i;
	d_step { owner == 0 -> owner = _pid + 1 };
	old = pte;
	pte = old + 1;
	do
	:: d_step { i < VCPUS -> request[i] = 1 };
		d_step { in_guest[i] == 0 -> i++ }
	:: d_step { i == VCPUS -> owner = 0; i = 0 };
		break
	od;
	atomic { freed[old] = 1; old = 0 };  /* no d_step: a break must not lead into one */
end_flusher:
	false
}
