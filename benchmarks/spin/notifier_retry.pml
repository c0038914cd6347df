/*
 * The world of scenarios/calibration/notifier_retry.py: one transition for each shared access.
 *
 * VCPUS, GUARD: as the scenario's parameters. A process that has ended waits at a valid end state,
 * with its locals cleared, since the end of a Promela process would be a transition of its own.
 */

#ifndef VCPUS
#define VCPUS 2
#endif
#ifndef GUARD
#define GUARD 1
#endif

byte seq, in_progress, pfn = 1, spte, owner, ended;
byte tlb[VCPUS];

#define ACQUIRE d_step { owner == 0 -> owner = _pid + 1 }
#define RELEASE owner = 0

/* The monitor: when the last task has ended, no entry of the old frame is left. */
inline note_end() {
	ended++;
	if
	:: ended == VCPUS + 1 -> assert(spte == 0 || spte == pfn)
	:: else
	fi
}

active [VCPUS] proctype vcpu() {
	byte noted, frame;
start:
	noted = seq;
	if
	:: in_progress != 0 -> goto start
	:: else
	fi;
	frame = pfn;
	ACQUIRE;
#if GUARD
	if
	:: in_progress != 0 -> goto over
	:: else
	fi;
	if
	:: seq != noted -> goto over
	:: else
	fi;
#endif
	spte = frame;
	RELEASE;
	d_step {
		tlb[_pid] = frame;
		noted = 0;
		frame = 0;
		note_end()
	};
end_vcpu:
	false;
over:
	RELEASE;
	goto start
}

active proctype notifier() {
	byte i, value;
	ACQUIRE;
	value = in_progress;
	d_step { in_progress = value + 1; value = 0 };
	spte = 0;
	do
	:: d_step { i < VCPUS -> tlb[i] = 0; i++ }
	:: d_step { i == VCPUS -> RELEASE; i = 0 }; break
	od;
	pfn = 2;
	ACQUIRE;
	value = seq;
	d_step { seq = value + 1; value = 0 };
	value = in_progress;
	d_step { in_progress = value - 1; value = 0 };
	d_step { RELEASE; note_end() };
end_notifier:
	false
}
