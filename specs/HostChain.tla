------------------------------ MODULE HostChain ------------------------------
(***************************************************************************)
(* The chain over the runs of a host: one file of entries, to which every  *)
(* run appends under a lock, so that a trace that is taken away later, cut *)
(* or added is noticed.                                                    *)
(*                                                                         *)
(*   start     the number of a run, the digest of its trace's first line   *)
(*   end       the digest of its trace's last line                         *)
(*   lost      the run before was killed before it had made its trace      *)
(*   removed   gc removes the trace                                        *)
(*                                                                         *)
(* Processes are killed at any point, also within a write to the chain;    *)
(* the kernel then releases the lock.  Meanwhile, and later, an adversary  *)
(* removes traces and cuts them.                                           *)
(*                                                                         *)
(* Left out on purpose.                                                    *)
(*   - That entries have the digest of the one before: an entry that is    *)
(*     changed, removed or moved is noticed by that alone.                 *)
(*   - Who writes the chain anew, and all traces with it.  A head of the   *)
(*     chain that is kept elsewhere shows that.                            *)
(*   - A power cut: without fsync the last entries may be gone.            *)
(***************************************************************************)
EXTENDS Naturals, Sequences, TLC

CONSTANTS
    Runs,
    Nobody,
    Gc,
    Kills,       \* how many processes are killed in one behaviour
    Acts         \* what the adversary does: "removes", "cuts"

VARIABLES
    chain,       \* the entries
    torn,        \* the file ends within an entry: its writer was killed
    spoilt,      \* something was appended to a torn entry: nobody can read on from there
    lock,        \* who has the lock
    pc,          \* where each run is
    next,        \* the number that each run has read is the next
    trace,       \* the trace of each run: "none", "begun", "whole"
    made,        \* whether the run itself has made its trace
    gc,          \* where gc is, and whose trace it removes
    acts,        \* what the adversary has done, and to whose trace
    kills        \* how many have been killed

vars == <<chain, torn, spoilt, lock, pc, next, trace, made, gc, acts, kills>>

Symmetry == Permutations(Runs)

Places == {"waits", "locked", "writes", "entered", "made", "runs", "wrote", "closes", "closing", "done", "killed"}
Idle == [at |-> "idle", whose |-> Nobody]

Init ==
    /\ chain = <<>>
    /\ torn = FALSE
    /\ spoilt = FALSE
    /\ lock = Nobody
    /\ pc = [r \in Runs |-> "waits"]
    /\ next = [r \in Runs |-> 0]
    /\ trace = [r \in Runs |-> "none"]
    /\ made = [r \in Runs |-> FALSE]
    /\ gc = Idle
    /\ acts = {}
    /\ kills = 0

-----------------------------------------------------------------------------
(* What is read from the chain.                                            *)

Starts == SelectSeq(chain, LAMBDA e : e.kind = "start")
Told(kind, r) == \E n \in DOMAIN chain : chain[n].kind = kind /\ chain[n].run = r

\* The last entry is the start of a run that has no trace: it was killed before it had made one.
IsLast(r) == chain # <<>> /\ chain[Len(chain)].kind = "start" /\ chain[Len(chain)].run = r
IsUntold == \E r \in Runs : IsLast(r) /\ trace[r] = "none"

Append1(kind, r, number) ==
    /\ chain' = Append(chain, [kind |-> kind, run |-> r, number |-> number])
    /\ spoilt' = (spoilt \/ torn)

-----------------------------------------------------------------------------
(* A run.                                                                  *)

Lock(r) ==
    /\ lock = Nobody
    /\ \/ pc[r] = "waits" /\ pc' = [pc EXCEPT ![r] = "locked"]
       \/ pc[r] = "closes" /\ pc' = [pc EXCEPT ![r] = "closing"]
    /\ lock' = r
    /\ UNCHANGED <<chain, torn, spoilt, trace, next, made, gc, acts, kills>>

\* chain.py, `_read_last`: whoever has the lock and finds a torn entry cuts it off, before all else.
Mend(who) ==
    /\ lock = who
    /\ IF who = Gc THEN gc.at = "locked" ELSE pc[who] \in {"locked", "closing"}
    /\ torn
    /\ torn' = FALSE
    /\ UNCHANGED <<chain, spoilt, lock, pc, trace, next, made, gc, acts, kills>>

\* chain.py, `_locked`: before any other entry.  So it is the last one that may have no trace.
TellLost(who) ==
    /\ lock = who
    /\ IF who = Gc THEN gc.at = "locked" ELSE pc[who] \in {"locked", "closing"}
    /\ ~torn
    /\ IsUntold
    /\ Append1("lost", chain[Len(chain)].run, 0)
    /\ UNCHANGED <<torn, lock, pc, trace, next, made, gc, acts, kills>>

\* The write of the start begins ...
Write(r) ==
    /\ pc[r] = "locked"
    /\ ~torn
    /\ ~IsUntold
    /\ pc' = [pc EXCEPT ![r] = "writes"]
    /\ torn' = TRUE
    /\ next' = [next EXCEPT ![r] = Len(Starts) + 1]
    /\ UNCHANGED <<chain, spoilt, lock, trace, made, gc, acts, kills>>

\* ... and ends.
Enter(r) ==
    /\ pc[r] = "writes"
    /\ chain' = Append(chain, [kind |-> "start", run |-> r, number |-> next[r]])
    /\ torn' = FALSE
    /\ pc' = [pc EXCEPT ![r] = "entered"]
    /\ UNCHANGED <<spoilt, lock, trace, next, made, gc, acts, kills>>

\* The trace's file, with its first line.
Make(r) ==
    /\ pc[r] = "entered"
    /\ trace' = [trace EXCEPT ![r] = "begun"]
    /\ made' = [made EXCEPT ![r] = TRUE]
    /\ pc' = [pc EXCEPT ![r] = "made"]
    /\ UNCHANGED <<next, chain, torn, spoilt, lock, gc, acts, kills>>

Unlock(r) ==
    /\ pc[r] = "made"
    /\ pc' = [pc EXCEPT ![r] = "runs"]
    /\ lock' = Nobody
    /\ UNCHANGED <<chain, torn, spoilt, trace, next, made, gc, acts, kills>>

\* The last line of the trace: handed off, refused, or how the container ended.
LastLine(r) ==
    /\ pc[r] = "runs"
    /\ pc' = [pc EXCEPT ![r] = "closes"]
    /\ trace' = [trace EXCEPT ![r] = IF @ = "none" THEN "none" ELSE "whole"]
    /\ UNCHANGED <<chain, torn, spoilt, lock, next, made, gc, acts, kills>>

Close(r) ==
    /\ pc[r] = "closing"
    /\ ~torn
    /\ ~IsUntold
    /\ Append1("end", r, 0)
    /\ pc' = [pc EXCEPT ![r] = "done"]
    /\ lock' = Nobody
    /\ UNCHANGED <<torn, trace, next, made, gc, acts, kills>>

Run(r) ==
    Lock(r) \/ Mend(r) \/ TellLost(r) \/ Write(r) \/ Enter(r) \/ Make(r) \/ Unlock(r) \/ LastLine(r) \/ Close(r)

\* The kernel releases the lock of whoever is killed.
Released(who) == IF lock = who THEN Nobody ELSE lock

RunIsKilled(r) ==
    /\ kills < Kills
    /\ pc[r] \notin {"done", "killed"}
    /\ kills' = kills + 1
    /\ pc' = [pc EXCEPT ![r] = "killed"]
    /\ lock' = Released(r)
    /\ UNCHANGED <<chain, torn, spoilt, trace, next, made, gc, acts>>

-----------------------------------------------------------------------------
(* gc, which removes old traces.                                           *)

GcLocks(r) ==
    /\ gc.at = "idle"
    /\ lock = Nobody
    /\ trace[r] # "none"
    /\ pc[r] \in {"done", "killed"}
    /\ lock' = Gc
    /\ gc' = [at |-> "locked", whose |-> r]
    /\ UNCHANGED <<chain, torn, spoilt, pc, trace, next, made, acts, kills>>

GcTells ==
    /\ gc.at = "locked"
    /\ ~torn
    /\ ~IsUntold
    /\ Append1("removed", gc.whose, 0)
    /\ gc' = [gc EXCEPT !.at = "told"]
    /\ UNCHANGED <<torn, lock, pc, trace, next, made, acts, kills>>

GcRemoves ==
    /\ gc.at = "told"
    /\ trace' = [trace EXCEPT ![gc.whose] = "none"]
    /\ gc' = Idle
    /\ lock' = Nobody
    /\ UNCHANGED <<chain, torn, spoilt, pc, next, made, acts, kills>>

GcIsKilled ==
    /\ kills < Kills
    /\ gc.at # "idle"
    /\ kills' = kills + 1
    /\ gc' = Idle
    /\ lock' = Released(Gc)
    /\ UNCHANGED <<chain, torn, spoilt, pc, trace, next, made, acts>>

-----------------------------------------------------------------------------
(* The adversary.                                                          *)

Removes(r) ==
    /\ "removes" \in Acts
    /\ trace[r] # "none"
    /\ trace' = [trace EXCEPT ![r] = "none"]
    /\ acts' = acts \cup {<<"removes", r>>}
    /\ UNCHANGED <<chain, torn, spoilt, lock, pc, next, made, gc, kills>>

Cuts(r) ==
    /\ "cuts" \in Acts
    /\ trace[r] = "whole"
    /\ trace' = [trace EXCEPT ![r] = "begun"]
    /\ acts' = acts \cup {<<"cuts", r>>}
    /\ UNCHANGED <<chain, torn, spoilt, lock, pc, next, made, gc, kills>>

Finished == gc = Idle /\ (\A r \in Runs : pc[r] \in {"done", "killed"}) /\ UNCHANGED vars

Next ==
    \/ Finished
    \/ \E r \in Runs : Run(r) \/ RunIsKilled(r) \/ GcLocks(r) \/ Removes(r) \/ Cuts(r)
    \/ Mend(Gc) \/ TellLost(Gc) \/ GcTells \/ GcRemoves \/ GcIsKilled

Spec == Init /\ [][Next]_vars

\* Assumed: whoever has the lock goes on or is killed, and the kernel gives it to one who waits.
FairSpec ==
    /\ Spec
    /\ \A r \in Runs : WF_vars(Run(r))
    /\ WF_vars(Mend(Gc) \/ TellLost(Gc) \/ GcTells \/ GcRemoves)

-----------------------------------------------------------------------------
(* What `engine trace verify --host` says, with the lock, so that nobody   *)
(* is between an entry and its trace.                                      *)

\* A run whose start is the last entry may have been killed before it had made its trace; one with an end had made it.
MayBeUnmade(r) == ~Told("end", r) /\ (Told("lost", r) \/ IsLast(r))
SaysTaken(r)   == Told("start", r) /\ trace[r] = "none" /\ ~Told("removed", r) /\ ~MayBeUnmade(r)
SaysUnknown(r) == trace[r] = "none" /\ ~Told("removed", r) /\ MayBeUnmade(r)
SaysCut(r)     == Told("end", r) /\ trace[r] = "begun"
SaysAdded(r)   == trace[r] # "none" /\ ~Told("start", r)

TypeOK ==
    /\ torn \in BOOLEAN /\ spoilt \in BOOLEAN
    /\ lock \in Runs \cup {Nobody, Gc}
    /\ pc \in [Runs -> Places]
    /\ next \in [Runs -> Nat]
    /\ trace \in [Runs -> {"none", "begun", "whole"}]
    /\ made \in [Runs -> BOOLEAN]
    /\ kills \in 0..Kills

-----------------------------------------------------------------------------
(* What must hold.                                                         *)

\* No number twice, none left out: else nobody could say that a run is missing.
NumbersAreConsecutive == \A n \in DOMAIN Starts : Starts[n].number = n

\* A run that has a trace is in the chain; one that is not in the chain would not be missed.
EveryTraceIsInTheChain == \A r \in Runs : ~SaysAdded(r)

\* The chain can be read to its end, whoever was killed.
TheChainIsReadable == ~spoilt

\* No run is said to have made no trace that made one, unless somebody took that away.
LostIsTrue == \A r \in Runs : Told("lost", r) => ~made[r] \/ <<"removes", r>> \in acts

\* An alarm that may be false is not heeded.
TakenIsTrue == lock = Nobody => \A r \in Runs : SaysTaken(r) => <<"removes", r>> \in acts
CutIsTrue   == lock = Nobody => \A r \in Runs : SaysCut(r) => <<"cuts", r>> \in acts

\* What the adversary does with a trace is noticed, at the latest when it matters: once somebody looks.
\* Whoever hides a trace for a moment, so that another run says it is lost, gains nothing once the run has ended.
RemovalIsNoticed ==
    lock = Nobody => \A r \in Runs :
        <<"removes", r>> \in acts => IF Told("end", r) THEN SaysTaken(r) \/ Told("removed", r)
                                     ELSE SaysTaken(r) \/ SaysUnknown(r) \/ Told("removed", r)
CutIsNoticed ==
    lock = Nobody => \A r \in Runs : <<"cuts", r>> \in acts /\ Told("end", r)
                                     => SaysCut(r) \/ SaysTaken(r) \/ SaysUnknown(r) \/ Told("removed", r)

\* A crash that leaves a number without a trace is told before the next number is given.
CrashesAreTold ==
    \A n \in DOMAIN Starts : n < Len(Starts) /\ ~made[Starts[n].run] => Told("lost", Starts[n].run)

\* A killed run blocks nobody.
NobodyWaitsForEver == \A r \in Runs : pc[r] = "waits" ~> pc[r] \in {"done", "killed"}
=============================================================================
