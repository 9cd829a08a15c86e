---------------------------- MODULE Supervision ----------------------------
(***************************************************************************)
(* How a run ends that is supervised: engine run --supervise.              *)
(*                                                                         *)
(*   handed_off -> ended                                                   *)
(*                                                                         *)
(* The supervisor is the parent of the process that becomes runsc.  It     *)
(* waits for runsc's end, ends what is left of the container, records the  *)
(* end and cleans up.  It has runsc's lock open too, so that nobody else   *)
(* starts or removes the container before the end is recorded.             *)
(*                                                                         *)
(* Everything up to the hand-off is GVisorRuntime's.  Here are the end of  *)
(* runsc and of the container, in either order, a supervisor that may be   *)
(* killed at any point, further runs of the same container, and gc.        *)
(*                                                                         *)
(* Left out on purpose.                                                    *)
(*   - Signals.  They are passed on to runsc, and runsc ends or does not.  *)
(*   - Memory: whether the kernel killed the container for it is asked of  *)
(*     its cgroup, and is a fact of the line.                              *)
(***************************************************************************)
EXTENDS GVisorRuntime, Sequences

CONSTANTS
    Supervised,  \* the choices of --supervise that Init makes from
    Endings      \* how a process may end: by itself, or by a signal

VARIABLES
    supervised,  \* whether each run has a supervisor
    watcher,     \* the supervisor of each run: it watches, knows the end, has recorded it, is done; or was killed
    status,      \* how runsc ended, which the kernel knows
    known,       \* how it ended, as the supervisor was told by wait
    ends         \* the last lines of each trace that say how the run ended

supervision == <<supervised, watcher, status, known, ends>>
allVars     == <<vars, supervision>>

Running  == "running"
Untold   == "untold"
Watchers == {"none", "watches", "knows", "recorded", "done", "killed"}

SupervisedInit ==
    /\ Init
    /\ supervised \in [Runs -> Supervised]
    /\ watcher = [r \in Runs |-> IF supervised[r] THEN "watches" ELSE "none"]
    /\ status = [r \in Runs |-> Running]
    /\ known = [r \in Runs |-> Untold]
    /\ ends = [r \in Runs |-> <<>>]

-----------------------------------------------------------------------------
(* runsc, the container and the lock.                                      *)

\* The supervisor holds the lock from the hand-off on, beside runsc.
IsHeldOpen(r) == watcher[r] \in {"watches", "knows", "recorded"}

Unlocks(r) ==
    /\ handle' = [handle EXCEPT ![r] = "none"]
    /\ lock' = [lock EXCEPT ![id[r]] = IF @ = r THEN Nobody ELSE @]

\* runsc ends, before its container if it is killed, or after it.
RunscEnds(r) ==
    /\ supervised[r]
    /\ state[r] = "handed_off"
    /\ status[r] = Running
    /\ \E e \in Endings : status' = [status EXCEPT ![r] = e]
    /\ IF alive[r] \/ IsHeldOpen(r) THEN UNCHANGED locks ELSE Unlocks(r)
    /\ UNCHANGED <<given, state, verdict, binary, copies, policies, handOff, source, dirs, bundle, spent, supervised,
                   watcher, known, ends>>

\* The container ends.  The lock stays with those who have it open.
DiesInside(r) ==
    /\ supervised[r]
    /\ alive[r]
    /\ alive' = [alive EXCEPT ![r] = FALSE]
    /\ leftover' = [leftover EXCEPT ![id[r]] = TRUE]
    /\ UNCHANGED <<given, state, verdict, binary, copies, policies, seen, ran, cleaned, config, source, base, apart, root, nest,
                   intact, bundle, spent, supervision>>

SupervisedEnds(r) ==
    /\ DiesInside(r)
    /\ IF status[r] = Running \/ IsHeldOpen(r) THEN UNCHANGED locks ELSE Unlocks(r)

-----------------------------------------------------------------------------
(* The supervisor.                                                         *)

\* signals.py, `wait`: of its own child, and of no other.
Wait(r) ==
    /\ watcher[r] = "watches"
    /\ status[r] # Running
    /\ watcher' = [watcher EXCEPT ![r] = "knows"]
    /\ known' = [known EXCEPT ![r] = status[r]]
    /\ UNCHANGED <<vars, supervised, status, ends>>

\* A killed runsc may leave the container alive: its processes are killed, and waited for.
EndTheRest(r) ==
    /\ watcher[r] = "knows"
    /\ DiesInside(r)
    /\ UNCHANGED locks

\* ended.py, `record`: the last line, once nothing of the container lives.
End(r) ==
    /\ watcher[r] = "knows"
    /\ ~alive[r]
    /\ watcher' = [watcher EXCEPT ![r] = "recorded"]
    /\ ends' = [ends EXCEPT ![r] = Append(@, known[r])]
    /\ UNCHANGED <<vars, supervised, status, known>>

\* The line cannot be written, no space: then there is none, and the rest is done all the same.
EndIsLost(r) ==
    /\ watcher[r] = "knows"
    /\ ~alive[r]
    /\ watcher' = [watcher EXCEPT ![r] = "recorded"]
    /\ UNCHANGED <<vars, supervised, status, known, ends>>

\* What gc would do, under the lock that the run has held since root_secured.  What is in the place of our directory is
\* not followed and not removed.
CleanUp(r) ==
    /\ watcher[r] = "recorded"
    /\ watcher' = [watcher EXCEPT ![r] = "done"]
    /\ lock' = [lock EXCEPT ![id[r]] = Nobody]
    /\ IF root[id[r]] = "swapped"
       THEN /\ handle' = [handle EXCEPT ![r] = "none"]
            /\ UNCHANGED <<onDisk, config, root, nest, leftover, cleaned>>
       ELSE /\ handle' = [s \in Runs |-> IF s = r THEN "none"
                                         ELSE IF id[s] = id[r] /\ handle[s] = "current" THEN "stale"
                                         ELSE handle[s]]
            /\ onDisk' = [s \in Runs |-> IF id[s] = id[r] THEN NoneOfIt ELSE onDisk[s]]
            /\ root' = [root EXCEPT ![id[r]] = "absent"]
            /\ nest' = [nest EXCEPT ![id[r]] = "own"]
            /\ leftover' = [leftover EXCEPT ![id[r]] = FALSE]
            /\ cleaned' = CleanedUp(id[r])
            /\ config' = [s \in Runs |-> IF id[s] = id[r] THEN Nothing ELSE config[s]]
    /\ UNCHANGED <<given, state, verdict, binary, copied, stored, shared, policies, seen, ran, alive, source, base,
                   apart, intact, bundle, spent, supervised, status, known, ends>>

\* Killed at any point.  The kernel then kills runsc, which is its child; until that is gone, it has the lock.
SupervisorIsKilled(r) ==
    /\ IsHeldOpen(r)
    /\ watcher' = [watcher EXCEPT ![r] = "killed"]
    /\ IF state[r] = "handed_off" /\ status[r] # Running /\ ~alive[r] THEN Unlocks(r) ELSE UNCHANGED locks
    /\ UNCHANGED <<given, state, verdict, binary, copies, policies, handOff, source, dirs, bundle, spent, supervised,
                   status, known, ends>>

Supervisor(r) == Wait(r) \/ EndTheRest(r) \/ End(r) \/ EndIsLost(r) \/ CleanUp(r)

-----------------------------------------------------------------------------
\* A refused run has no container to supervise.  Its supervisor ends with the engine.
GVisorNext ==
    \/ \E r \in Runs : \/ Engine(r) \/ Fail(r)
                       \/ ~supervised[r] /\ ContainerEnds(r)
                       \/ \E p \in Parts : StartSidecar(r, p)
    \/ \E i \in Ids : GcTakes(i) \/ GcRemoves(i) \/ GcDeclines(i) \/ NamesakeStarts(i) \/ NamesakeEnds(i)
    \/ GcForgets
    \/ Adversary
    \/ Finished

SupervisedNext ==
    \/ GVisorNext /\ UNCHANGED supervision
    \/ \E r \in Runs : \/ RunscEnds(r) \/ SupervisedEnds(r)
                       \/ Supervisor(r)
                       \/ SupervisorIsKilled(r)

SupervisedSpec == SupervisedInit /\ [][SupervisedNext]_allVars

\* Assumed: as in GVisorRuntime; that a container ends at some time, runsc with it, and that its supervisor goes on.
SupervisedFairSpec ==
    /\ SupervisedSpec
    /\ \A r \in Runs : /\ WF_allVars(Engine(r) /\ UNCHANGED supervision)
                       /\ WF_allVars(RunscEnds(r))
                       /\ WF_allVars(SupervisedEnds(r))
                       /\ WF_allVars(Supervisor(r))

-----------------------------------------------------------------------------
(* What must hold, beside all that holds in GVisorRuntime.                 *)

SupervisionTypeOK ==
    /\ supervised \in [Runs -> BOOLEAN]
    /\ watcher \in [Runs -> Watchers]
    /\ status \in [Runs -> Endings \cup {Running}]
    /\ known \in [Runs -> Endings \cup {Untold}]
    /\ \A r \in Runs : \A n \in DOMAIN ends[r] : ends[r][n] \in Endings

HasEnded(r) == ends[r] # <<>>

\* An end that did not happen misleads whoever pays, debugs or audits by it.  supervisor.py: only what wait4 returned for
\* the process that became runsc.
TheEndIsTrue == \A r \in Runs : \A n \in DOMAIN ends[r] : state[r] = "handed_off" /\ ends[r][n] = status[r]

\* Two ends would contradict each other.  supervisor.py: `_after` records once.
AtMostOneEnd == \A r \in Runs : Len(ends[r]) <= 1

\* A container that goes on after its recorded end does what nobody sees.  ended.py: `end_the_rest` comes first.
NothingLivesAfterItsEnd == \A r \in Runs : HasEnded(r) => ~alive[r]

\* Nobody saw the end of an unsupervised run, and a killed supervisor sees nothing.
OnlyWhoSawItRecords == [][\A r \in Runs : ends'[r] # ends[r] => supervised[r] /\ watcher[r] = "knows"]_allVars

\* Another run of this container would otherwise begin, and its own end be taken for this one's.
TheLockIsKept ==
    \A r \in Runs : state[r] = "handed_off" /\ (alive[r] \/ IsHeldOpen(r)) => lock[id[r]] = r

\* The next run and gc find nothing, once the supervisor is done, of what it made.
NothingIsLeft ==
    [][\A r \in Runs : watcher[r] # "done" /\ watcher'[r] = "done"
                       => onDisk'[r] = NoneOfIt \/ root[id[r]] = "swapped"]_allVars

\* Who waits for the end learns it, unless the supervisor is killed or the line cannot be written.
TheEndIsRecorded ==
    \A r \in Runs : supervised[r] /\ state[r] = "handed_off" ~> watcher[r] \in {"done", "killed"}
=============================================================================
