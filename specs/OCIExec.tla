------------------------------- MODULE OCIExec -------------------------------
(***************************************************************************)
(* One detached exec: the processes on the host that stand for a process   *)
(* inside a container.  A manager knows one pid, from the pid file.  It    *)
(* waits for that process, and to end the exec it kills it; SIGKILL cannot *)
(* be caught.                                                              *)
(*                                                                         *)
(*   caller    `engine-oci exec`: starts the others, writes the pid file   *)
(*   monitor   has the pid in the pid file                                 *)
(*   guard     child of the monitor; sees its end by a pipe                *)
(*   runsc     `runsc exec`, child of the guard: starts the process inside,*)
(*             notes its pid where monitor and guard read it, and waits    *)
(*                                                                         *)
(* Whichever of monitor and guard is killed, the other kills the process   *)
(* inside.  An exec whose caller is killed before the pid file is written  *)
(* is ended, too: nobody would know of it.                                 *)
(*                                                                         *)
(* Left out on purpose.                                                    *)
(*   - Other signals: the guard sends inside what the monitor receives.    *)
(*   - Both monitor and guard killed, or runsc killed before it has noted  *)
(*     the pid inside: then nobody can end the exec but its container.     *)
(***************************************************************************)
EXTENDS Naturals

CONSTANTS
    Kills       \* how many processes are killed in one behaviour

VARIABLES
    caller,     \* "asks" until it hears that the exec runs, then "told", then "wrote" the pid file; "failed", "killed"
    monitor,    \* "up", "ended" by itself, "killed"
    guard,      \* the same
    runsc,      \* the same, and "none" before it is started
    inside,     \* the process in the container: "none", "runs", "ended"
    noted,      \* its pid is noted
    code,       \* the guard has sent the exit code to the monitor
    kills       \* how many have been killed

vars == <<caller, monitor, guard, runsc, inside, noted, code, kills>>

Init ==
    /\ caller = "asks"
    /\ monitor = "up"
    /\ guard = "up"
    /\ runsc = "none"
    /\ inside = "none"
    /\ noted = FALSE
    /\ code = FALSE
    /\ kills = 0

-----------------------------------------------------------------------------
(* The exec starts.                                                        *)

StartRunsc ==
    /\ guard = "up" /\ runsc = "none"
    /\ runsc' = "up"
    /\ UNCHANGED <<caller, monitor, guard, inside, noted, code, kills>>

StartInside ==
    /\ runsc = "up" /\ inside = "none"
    /\ inside' = "runs"
    /\ UNCHANGED <<caller, monitor, guard, runsc, noted, code, kills>>

NotePid ==
    /\ runsc = "up" /\ inside # "none" /\ ~noted
    /\ noted' = TRUE
    /\ UNCHANGED <<caller, monitor, guard, runsc, inside, code, kills>>

\* The guard tells the monitor, and that the caller.
Tell ==
    /\ guard = "up" /\ monitor = "up" /\ noted
    /\ caller = "asks"
    /\ caller' = "told"
    /\ UNCHANGED <<monitor, guard, runsc, inside, noted, code, kills>>

WritePidFile ==
    /\ caller = "told"
    /\ caller' = "wrote"
    /\ UNCHANGED <<monitor, guard, runsc, inside, noted, code, kills>>

\* No such program, or the container has ended.
RefuseStart ==
    /\ runsc = "up" /\ inside = "none"
    /\ runsc' = "ended"
    /\ UNCHANGED <<caller, monitor, guard, inside, noted, code, kills>>

HearOfRefusal ==
    /\ caller = "asks"
    /\ monitor # "up"
    /\ caller' = "failed"
    /\ UNCHANGED <<monitor, guard, runsc, inside, noted, code, kills>>

-----------------------------------------------------------------------------
(* The exec ends by itself.                                                *)

InsideEnds ==
    /\ inside = "runs"
    /\ inside' = "ended"
    /\ UNCHANGED <<caller, monitor, guard, runsc, noted, code, kills>>

RunscEnds ==
    /\ runsc = "up" /\ inside = "ended" /\ noted
    /\ runsc' = "ended"
    /\ UNCHANGED <<caller, monitor, guard, inside, noted, code, kills>>

\* A runsc that was killed is no end of the exec.
IsOver == runsc \in {"ended", "killed"} /\ inside # "runs"

GuardEnds ==
    /\ guard = "up" /\ IsOver
    /\ guard' = "ended"
    /\ code' = (runsc = "ended")
    /\ UNCHANGED <<caller, monitor, runsc, inside, noted, kills>>

MonitorEnds ==
    /\ monitor = "up" /\ guard = "ended"
    /\ caller # "told" \* the pid in the pid file is one that the manager can wait for
    /\ monitor' = "ended"
    /\ UNCHANGED <<caller, guard, runsc, inside, noted, code, kills>>

-----------------------------------------------------------------------------
(* The exec is ended.                                                      *)

Kill(process) == process = "up" /\ kills < Kills /\ kills' = kills + 1

MonitorIsKilled ==
    /\ Kill(monitor)
    /\ monitor' = "killed"
    /\ UNCHANGED <<caller, guard, runsc, inside, noted, code>>

GuardIsKilled ==
    /\ Kill(guard)
    /\ guard' = "killed"
    /\ UNCHANGED <<caller, monitor, runsc, inside, noted, code>>

RunscIsKilled ==
    /\ Kill(runsc) /\ noted
    /\ runsc' = "killed"
    /\ UNCHANGED <<caller, monitor, guard, inside, noted, code>>

CallerIsKilled ==
    /\ caller \in {"asks", "told"}
    /\ kills < Kills /\ kills' = kills + 1
    /\ caller' = "killed"
    /\ UNCHANGED <<monitor, guard, runsc, inside, noted, code>>

\* Nobody has its pid: it ends, and the guard sees that.
MonitorLeaves ==
    /\ monitor = "up" /\ caller = "killed"
    /\ monitor' = "killed"
    /\ UNCHANGED <<caller, guard, runsc, inside, noted, code, kills>>

KilledInside == noted /\ inside = "runs" /\ inside' = "ended"

GuardKillsInside ==
    /\ guard = "up"
    /\ monitor = "killed" \/ runsc = "killed"
    /\ KilledInside
    /\ UNCHANGED <<caller, monitor, guard, runsc, noted, code, kills>>

MonitorKillsInside ==
    /\ monitor = "up" /\ guard = "killed"
    /\ KilledInside
    /\ UNCHANGED <<caller, monitor, guard, runsc, noted, code, kills>>

\* It ends only when runsc has: before, there may be a process inside whose pid is not noted yet.
MonitorEndsAlone ==
    /\ monitor = "up" /\ guard = "killed"
    /\ runsc # "up" /\ inside # "runs"
    /\ caller # "told"
    /\ monitor' = "ended"
    /\ UNCHANGED <<caller, guard, runsc, inside, noted, code, kills>>

-----------------------------------------------------------------------------
\* The next exec.
Again ==
    /\ caller \notin {"asks", "told"}
    /\ monitor # "up" /\ guard # "up" /\ runsc # "up" /\ inside # "runs"
    /\ caller' = "asks"
    /\ monitor' = "up"
    /\ guard' = "up"
    /\ runsc' = "none"
    /\ inside' = "none"
    /\ noted' = FALSE
    /\ code' = FALSE
    /\ kills' = 0

Next ==
    \/ StartRunsc \/ StartInside \/ NotePid \/ Tell \/ WritePidFile \/ RefuseStart \/ HearOfRefusal
    \/ InsideEnds \/ RunscEnds \/ GuardEnds \/ MonitorEnds
    \/ MonitorIsKilled \/ GuardIsKilled \/ RunscIsKilled \/ CallerIsKilled
    \/ MonitorLeaves \/ GuardKillsInside \/ MonitorKillsInside \/ MonitorEndsAlone
    \/ Again

Spec == Init /\ [][Next]_vars

\* Every process goes on.  The one inside may run for ever.
Fairness ==
    /\ WF_vars(StartRunsc)
    /\ WF_vars(StartInside \/ RefuseStart) /\ WF_vars(NotePid) /\ WF_vars(RunscEnds)
    /\ WF_vars(Tell \/ HearOfRefusal) /\ WF_vars(WritePidFile)
    /\ WF_vars(GuardEnds) /\ WF_vars(MonitorEnds) /\ WF_vars(MonitorEndsAlone) /\ WF_vars(MonitorLeaves)
    /\ WF_vars(GuardKillsInside) /\ WF_vars(MonitorKillsInside)

FairSpec == Spec /\ Fairness

-----------------------------------------------------------------------------
TypeOK ==
    /\ caller \in {"asks", "told", "wrote", "failed", "killed"}
    /\ monitor \in {"up", "ended", "killed"}
    /\ guard \in {"up", "ended", "killed"}
    /\ runsc \in {"none", "up", "ended", "killed"}
    /\ inside \in {"none", "runs", "ended"}
    /\ noted \in BOOLEAN
    /\ code \in BOOLEAN
    /\ kills \in 0 .. Kills

\* To a manager the monitor's end is the exec's: unless it is killed, it ends no sooner.
MonitorDoesNotEndEarly == monitor = "ended" => inside # "runs"

\* ... and with the exec's exit code, unless something was killed.
TheCodeIsReturned == monitor = "ended" /\ kills = 0 => code

\* A pid file names a process that stood for an exec.
APidFileIsOfAnExec == caller = "wrote" => inside # "none"

\* What its manager kills is ended inside, and so is an exec that nobody knows of.
AKillReachesInside == monitor = "killed" ~> inside # "runs"
AGuardIsNotMissed == guard = "killed" ~> inside # "runs"
NobodysExecIsEnded == caller = "killed" ~> inside # "runs"

\* Nothing is left of an exec that has ended.
NothingIsLeft == inside = "ended" ~> monitor # "up" /\ guard # "up" /\ runsc # "up"

\* The caller, for which the manager waits, ends.
TheCallerEnds == caller = "asks" ~> caller # "asks"
=============================================================================
