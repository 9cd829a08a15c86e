----------------------------- MODULE OCIRuntime -----------------------------
(***************************************************************************)
(* One container as a manager (podman, containerd) drives it: what the OCI *)
(* runtime specification calls its lifecycle, around the run's own, which  *)
(* GVisorRuntime models and which is one part of it here:                  *)
(*                                                                         *)
(*   deleted -> creating -> created -> running <-> paused                  *)
(*                 |           \          |        /                       *)
(*              deleted <-------------- stopped                            *)
(*                                                                         *)
(* `deleted` is also what no container of that id has ever been.           *)
(*                                                                         *)
(* `state` is what is true; `Reported` is what the verb `state` finds out  *)
(* from what a crash cannot take back: the record, runsc's own state file, *)
(* whether the process that creates it lives, and whether any process      *)
(* executes the staged copy of runsc.  That the two never differ is the    *)
(* heart of it.  engine/state/oci_lifecycle.py has the same table of verbs, and a  *)
(* test compares the two in every state.                                   *)
(*                                                                         *)
(* start, pause and resume are runsc's, and take it two steps: first the   *)
(* sandbox does it, then runsc writes its file anew, which is empty in     *)
(* between.  Killed there, runsc leaves a file that is wrong, or cannot be *)
(* read, and it believes that file ever after.  So the engine notes what   *)
(* it is about to have done, and the next command finds out what was.      *)
(*                                                                         *)
(* Modelled: several commands at once on one id, a refusal at every step,  *)
(* a runsc that fails at create or start, a container that ends by itself, *)
(* and a crash of any command between any two of its steps.                *)
(*                                                                         *)
(* Left out on purpose.                                                    *)
(*   - What a step of the run checks: GVisorRuntime has it.                *)
(*   - exec, ps, events, checkpoint: they change no state.                 *)
(*   - restore and run: they are a create, the latter with a start.        *)
(*   - Other ids and roots: each pair has a directory and a lock of its    *)
(*     own.                                                                *)
(*   - A crash inside kill: a signal is sent or not.                       *)
(*   - A message to the sandbox that is on its way when its sender dies.   *)
(***************************************************************************)
EXTENDS Naturals

CONSTANTS
    Commands,   \* engine processes that act on this container
    Nobody,     \* holds a lock that is free
    Crashes     \* how often a command is killed in one behaviour

VARIABLES
    state,      \* by container: where it is
    run,        \* by container: where the run that creates it is, in GVisorRuntime's words; "none" when there is none
    lock,       \* who holds the lock
    doing,      \* by command: what it does; all but "begin" under the lock
    record,     \* the engine's record of the container is there
    file,       \* what runsc's own state file says; "none" when there is no such file, "cut" when it is empty
    inside,     \* what the sandbox does, as long as it lives
    attempt,    \* which of start, pause and resume the engine noted last; "none" before the first
    alive,      \* some process executes the staged copy of runsc
    handedOff,  \* the run of this very container was handed off
    killed,     \* somebody has sent it a signal that ends it
    crashes     \* how many commands have been killed

vars == <<state, run, lock, doing, record, file, inside, attempt, alive, handedOff, killed, crashes>>

\* There is one; it has a name so that the state graph can be read as GVisorRuntime's is.
Containers == {"c"}
Now   == state["c"]
RunAt == run["c"]

Becomes(s)   == state' = [state EXCEPT !["c"] = s]
RunComesTo(s) == run' = [run EXCEPT !["c"] = s]

Steps  == <<"start", "resolved", "validated", "root_secured", "staged", "policy_settled", "handed_off">>
Runs   == {Steps[n] : n \in DOMAIN Steps} \cup {"none", "refused"}
States == {"deleted", "creating", "created", "running", "paused", "stopped"}
Live   == {"created", "running", "paused"}

\* Every edge there is.
Edges ==
    {<<"deleted", "creating">>, <<"creating", "created">>, <<"creating", "deleted">>, <<"created", "running">>,
     <<"running", "paused">>, <<"paused", "running">>, <<"stopped", "deleted">>}
    \cup {<<s, "stopped">> : s \in Live}

-----------------------------------------------------------------------------
\* The process that the record names as the creator lives, first as the engine, then as `runsc create`.
BeingCreated == \E v \in Commands : doing[v] = "create"

\* start, pause or resume is being done: noted, done by the sandbox, its file empty.  They wait for one another.
Trying == {"try", "tell", "write"}
BeingTried == \E v \in Commands : doing[v] \in Trying
From(verb) == CASE verb = "start" -> "created" [] verb = "pause" -> "running" [] verb = "resume" -> "paused"
To(verb)   == CASE verb = "start" -> "running" [] verb = "pause" -> "paused"  [] verb = "resume" -> "running"

\* An empty file was emptied after the sandbox had done what was noted.  One that is as it was before says nothing of
\* whether the sandbox has, once nobody does it any more: the sandbox is asked.
Known ==
    IF file = "cut" THEN To(attempt)
    ELSE IF attempt # "none" /\ ~BeingTried /\ file = From(attempt) THEN inside
    ELSE file

\* What the verb `state` says.  A container without runsc's file is one that is being made, or that nobody goes on making.
Reported ==
    IF file # "none" THEN IF alive THEN Known ELSE "stopped"
    ELSE IF record /\ (alive \/ BeingCreated) THEN "creating"
    ELSE "deleted"

Init ==
    /\ state = [c \in Containers |-> "deleted"]
    /\ run = [c \in Containers |-> "none"]
    /\ lock = Nobody
    /\ doing = [v \in Commands |-> "nothing"]
    /\ record = FALSE
    /\ file = "none"
    /\ inside = "created"
    /\ attempt = "none"
    /\ alive = FALSE
    /\ handedOff = FALSE
    /\ killed = FALSE
    /\ crashes = 0

LetGo(v) ==
    /\ lock' = Nobody
    /\ doing' = [doing EXCEPT ![v] = "nothing"]

-----------------------------------------------------------------------------
(* create.                                                                 *)

Begin(v) ==
    /\ doing[v] = "nothing"
    /\ RunAt = "none"
    /\ RunComesTo("start")
    /\ doing' = [doing EXCEPT ![v] = "begin"]
    /\ UNCHANGED <<state, lock, record, file, inside, attempt, alive, handedOff, killed, crashes>>

Resolve(v) ==
    /\ doing[v] = "begin" /\ RunAt = "start"
    /\ RunComesTo("resolved")
    /\ UNCHANGED <<state, lock, doing, record, file, inside, attempt, alive, handedOff, killed, crashes>>

Validate(v) ==
    /\ doing[v] = "begin" /\ RunAt = "resolved"
    /\ RunComesTo("validated")
    /\ UNCHANGED <<state, lock, doing, record, file, inside, attempt, alive, handedOff, killed, crashes>>

\* The lock is free and nothing of this id lives; only then is the record written.
Vacant == file = "none" /\ ~alive

Create(v) ==
    /\ doing[v] = "begin" /\ RunAt = "validated"
    /\ lock = Nobody
    /\ Vacant
    /\ lock' = v
    /\ doing' = [doing EXCEPT ![v] = "create"]
    /\ record' = TRUE
    /\ handedOff' = FALSE
    /\ killed' = FALSE
    /\ RunComesTo("root_secured")
    /\ Becomes("creating")
    /\ attempt' = "none"
    /\ UNCHANGED <<file, inside, alive, crashes>>

Stage(v) ==
    /\ doing[v] = "create" /\ RunAt = "root_secured"
    /\ RunComesTo("staged")
    /\ UNCHANGED <<state, lock, doing, record, file, inside, attempt, alive, handedOff, killed, crashes>>

ApplyPolicy(v) ==
    /\ doing[v] = "create" /\ RunAt = "staged"
    /\ RunComesTo("policy_settled")
    /\ UNCHANGED <<state, lock, doing, record, file, inside, attempt, alive, handedOff, killed, crashes>>

\* execve into `runsc create`, which holds the lock until it ends.
Exec(v) ==
    /\ doing[v] = "create" /\ RunAt = "policy_settled"
    /\ RunComesTo("handed_off")
    /\ handedOff' = TRUE
    /\ UNCHANGED <<state, lock, doing, record, file, inside, attempt, alive, killed, crashes>>

\* runsc starts the gofer and the sandbox ...
Boot(v) ==
    /\ doing[v] = "create" /\ RunAt = "handed_off"
    /\ file = "none" /\ ~alive
    /\ alive' = TRUE
    /\ UNCHANGED <<state, run, lock, doing, record, file, inside, attempt, handedOff, killed, crashes>>

\* ... and says so in its file when both are up.
Complete(v) ==
    /\ doing[v] = "create" /\ RunAt = "handed_off"
    /\ alive
    /\ file' = "created"
    /\ inside' = "created"
    /\ RunComesTo("none")
    /\ Becomes("created")
    /\ LetGo(v)
    /\ UNCHANGED <<record, attempt, alive, handedOff, killed, crashes>>

\* A run that is refused before it holds the lock has made nothing.
RefuseRun(v) ==
    /\ doing[v] = "begin"
    /\ RunComesTo("refused")
    /\ doing' = [doing EXCEPT ![v] = "nothing"]
    /\ UNCHANGED <<state, lock, record, file, inside, attempt, alive, handedOff, killed, crashes>>

\* Afterwards it takes the record back.
Refuse(v) ==
    /\ doing[v] = "create" /\ RunAt # "handed_off"
    /\ RunComesTo("refused")
    /\ record' = FALSE
    /\ Becomes("deleted")
    /\ LetGo(v)
    /\ UNCHANGED <<file, inside, attempt, alive, handedOff, killed, crashes>>

\* runsc refuses: it ends what it started.  The record stays for the keeper, which is one more command that deletes,
\* or, if that is killed, for the next.
RefuseCreate(v) ==
    /\ doing[v] = "create" /\ RunAt = "handed_off"
    /\ alive' = FALSE
    /\ RunComesTo("none")
    /\ Becomes("deleted")
    /\ LetGo(v)
    /\ UNCHANGED <<record, file, inside, attempt, handedOff, killed, crashes>>

\* The process of a refused run has ended; the next may begin.
Ended ==
    /\ RunAt = "refused"
    /\ RunComesTo("none")
    /\ UNCHANGED <<state, lock, doing, record, file, inside, attempt, alive, handedOff, killed, crashes>>

-----------------------------------------------------------------------------
(* start, pause and resume: the engine notes it and becomes runsc.         *)

\* One at a time.  What an earlier one that was killed left untold in runsc's file is told first: runsc goes by its file,
\* and a sandbox that is paused twice, or let go on when it is not paused, is lost.
Try(v, verb) ==
    /\ doing[v] = "nothing"
    /\ ~BeingTried
    /\ Reported = From(verb)
    /\ file' = From(verb)
    /\ attempt' = verb
    /\ doing' = [doing EXCEPT ![v] = "try"]

Noted == UNCHANGED <<state, run, lock, record, inside, alive, handedOff, killed, crashes>>
TryStart(v)  == Try(v, "start") /\ Noted
TryPause(v)  == Try(v, "pause") /\ Noted
TryResume(v) == Try(v, "resume") /\ Noted

\* The sandbox does it ...
Done(v, verb) ==
    /\ doing[v] = "try" /\ attempt = verb
    /\ file = From(verb) /\ alive
    /\ inside' = To(verb)
    /\ Becomes(To(verb))
    /\ doing' = [doing EXCEPT ![v] = "tell"]

Untold == UNCHANGED <<run, lock, record, file, attempt, alive, handedOff, killed, crashes>>
Start(v)  == Done(v, "start") /\ Untold
Pause(v)  == Done(v, "pause") /\ Untold
Resume(v) == Done(v, "resume") /\ Untold

\* ... runsc empties its file ...
Empty(v) ==
    /\ doing[v] = "tell"
    /\ file' = "cut"
    /\ doing' = [doing EXCEPT ![v] = "write"]
    /\ UNCHANGED <<state, run, lock, record, inside, attempt, alive, handedOff, killed, crashes>>

\* ... and writes it.
Tell(v) ==
    /\ doing[v] = "write"
    /\ file' = To(attempt)
    /\ doing' = [doing EXCEPT ![v] = "nothing"]
    /\ UNCHANGED <<state, run, lock, record, inside, attempt, alive, handedOff, killed, crashes>>

\* The sandbox is gone, or runsc refuses: nothing was done.
GiveUp(v) ==
    /\ doing[v] = "try"
    /\ doing' = [doing EXCEPT ![v] = "nothing"]
    /\ UNCHANGED <<state, run, lock, record, file, inside, attempt, alive, handedOff, killed, crashes>>

\* A start that fails ends what was created.
RefuseStart(v) ==
    /\ doing[v] = "try" /\ attempt = "start"
    /\ file = "created" /\ alive
    /\ alive' = FALSE
    /\ Becomes("stopped")
    /\ doing' = [doing EXCEPT ![v] = "nothing"]
    /\ UNCHANGED <<run, lock, record, file, inside, attempt, handedOff, killed, crashes>>

-----------------------------------------------------------------------------
(* The other verbs that are runsc's alone.                                 *)

\* Whatever goes by runsc's file has it put right first.
Mend ==
    /\ ~BeingTried
    /\ alive /\ file \notin {"none", Known}
    /\ file' = Known
    /\ UNCHANGED <<state, run, lock, doing, record, inside, attempt, alive, handedOff, killed, crashes>>

\* runsc sends no signal to what is paused.
Kill ==
    /\ alive /\ Reported \in {"created", "running"}
    /\ ~killed
    /\ killed' = TRUE
    /\ UNCHANGED <<state, run, lock, doing, record, file, inside, attempt, alive, handedOff, crashes>>

\* Killed, out of its own, or because it is being deleted.
End ==
    /\ file # "none" /\ alive
    /\ alive' = FALSE
    /\ Becomes("stopped")
    /\ UNCHANGED <<run, lock, doing, record, file, inside, attempt, handedOff, killed, crashes>>

-----------------------------------------------------------------------------
(* delete and gc.                                                          *)

\* delete is for what is over, or was never started.
TakeToDelete(v) ==
    /\ doing[v] = "nothing"
    /\ lock = Nobody
    /\ record
    /\ Reported \in {"created", "stopped", "deleted"}
    /\ lock' = v
    /\ doing' = [doing EXCEPT ![v] = "delete"]
    /\ UNCHANGED <<state, run, record, file, inside, attempt, alive, handedOff, killed, crashes>>

\* runsc looks again, under its own lock, whether it was started meanwhile: then it is not deleted ...
Decline(v) ==
    /\ doing[v] = "delete"
    /\ alive /\ file \in {"running", "paused", "cut"}
    /\ LetGo(v)
    /\ UNCHANGED <<state, run, record, file, inside, attempt, alive, handedOff, killed, crashes>>

\* ... and else it is ended first.
EndCreated(v) ==
    /\ doing[v] = "delete"
    /\ alive /\ file = "created"
    /\ alive' = FALSE
    /\ Becomes("stopped")
    /\ UNCHANGED <<run, lock, doing, record, file, inside, attempt, handedOff, killed, crashes>>

\* delete --force ends whatever it finds.
TakeByForce(v) ==
    /\ doing[v] = "nothing"
    /\ lock = Nobody
    /\ record
    /\ lock' = v
    /\ doing' = [doing EXCEPT ![v] = "delete"]
    /\ killed' = TRUE
    /\ UNCHANGED <<state, run, record, file, inside, attempt, alive, handedOff, crashes>>

\* gc, and another creation of this id, take away what a creation that was killed left, and nothing that is somebody's.
Collect(v) ==
    /\ doing[v] = "nothing"
    /\ lock = Nobody
    /\ record
    /\ Vacant
    /\ lock' = v
    /\ doing' = [doing EXCEPT ![v] = "collect"]
    /\ UNCHANGED <<state, run, record, file, inside, attempt, alive, handedOff, killed, crashes>>

\* What runsc knows of, runsc deletes once it is over, and not while another runsc writes its file.  Processes that a
\* creation left without a file are ended, and so is a runsc that was to start, pause or resume it.
Delete(v) ==
    /\ doing[v] = "delete"
    /\ \A w \in Commands : doing[w] \notin {"tell", "write"}
    /\ \/ file # "none" /\ ~alive
       \/ file = "none" /\ alive
    /\ file' = "none"
    /\ alive' = FALSE
    /\ Becomes("deleted")
    /\ doing' = [w \in Commands |-> IF doing[w] = "try" THEN "nothing" ELSE doing[w]]
    /\ UNCHANGED <<run, lock, record, inside, attempt, handedOff, killed, crashes>>

\* The record goes last: as long as anything is left, the next command can find it.
Forget(v) ==
    /\ doing[v] \in {"delete", "collect"}
    /\ Vacant
    /\ record' = FALSE
    /\ LetGo(v)
    /\ UNCHANGED <<state, run, file, inside, attempt, alive, handedOff, killed, crashes>>

-----------------------------------------------------------------------------
(* A command is killed.  Its lock falls with it; all else stays as it is.  *)

HoldsTheRun(v) == doing[v] \in {"begin", "create"}

Crash(v) ==
    /\ doing[v] # "nothing"
    /\ crashes < Crashes
    /\ crashes' = crashes + 1
    /\ doing' = [doing EXCEPT ![v] = "nothing"]
    /\ lock' = IF lock = v THEN Nobody ELSE lock
    /\ RunComesTo(IF HoldsTheRun(v) THEN "none" ELSE RunAt)
    /\ Becomes(IF doing[v] = "create" /\ ~alive THEN "deleted" ELSE Now)
    /\ UNCHANGED <<record, file, inside, attempt, alive, handedOff, killed>>

Next ==
    \/ \E v \in Commands :
        \/ Begin(v) \/ Resolve(v) \/ Validate(v) \/ Create(v) \/ Stage(v) \/ ApplyPolicy(v) \/ Exec(v)
        \/ Boot(v) \/ Complete(v) \/ RefuseRun(v) \/ Refuse(v) \/ RefuseCreate(v)
        \/ TakeToDelete(v) \/ TakeByForce(v) \/ Collect(v)
        \/ Decline(v) \/ EndCreated(v) \/ Delete(v) \/ Forget(v) \/ Crash(v)
        \/ TryStart(v) \/ TryPause(v) \/ TryResume(v) \/ Start(v) \/ Pause(v) \/ Resume(v)
        \/ Empty(v) \/ Tell(v) \/ GiveUp(v) \/ RefuseStart(v)
    \/ Ended \/ Mend \/ Kill \/ End

Spec == Init /\ [][Next]_vars

\* A command that can go on does, also one that waits for runsc's lock.  What was killed ends.  A manager that wants a container gone asks until it is.
Fairness ==
    /\ \A v \in Commands :
        /\ WF_vars(Resolve(v) \/ Validate(v) \/ RefuseRun(v))
        /\ WF_vars(Stage(v) \/ ApplyPolicy(v) \/ Exec(v) \/ Boot(v) \/ Complete(v))
        /\ WF_vars(Start(v) \/ Pause(v) \/ Resume(v) \/ Empty(v) \/ Tell(v) \/ GiveUp(v))
        /\ SF_vars(Decline(v) \/ EndCreated(v) \/ Delete(v)) /\ WF_vars(Forget(v))
        /\ SF_vars(TakeByForce(v))
    /\ WF_vars(Ended)
    /\ WF_vars(killed /\ End)

FairSpec == Spec /\ Fairness

-----------------------------------------------------------------------------
TypeOK ==
    /\ state \in [Containers -> States]
    /\ run \in [Containers -> Runs]
    /\ lock \in Commands \cup {Nobody}
    /\ doing \in [Commands -> {"nothing", "begin", "create", "delete", "collect"} \cup Trying]
    /\ record \in BOOLEAN
    /\ file \in Live \cup {"none", "cut"}
    /\ inside \in Live
    /\ attempt \in {"none", "start", "pause", "resume"}
    /\ alive \in BOOLEAN
    /\ handedOff \in BOOLEAN
    /\ killed \in BOOLEAN
    /\ crashes \in 0 .. Crashes

\* A manager acts on what it is told, whatever was killed before it asked.  While a verb is being done, what was before it
\* is as true as what is after it.
StateIsTruthful == Reported = Now \/ (BeingTried /\ Now = To(attempt) /\ Reported = From(attempt))

\* runsc goes by its file and asks nobody.
RunscIsNotMisled == \A v \in Commands : doing[v] = "try" /\ alive => file = inside

\* What nobody can find, nobody can end.  The record is written first and removed last.
NoOrphan == alive \/ file # "none" => record

\* A container that did not come through the lifecycle was checked by nobody.  Only Exec hands off.
NeverWithoutHandOff == alive => handedOff

\* A second creation, or gc, that removed a live container's directory would leave it beyond reach.
TheLivingKeepTheirs == [][alive /\ alive' => record']_vars

\* Whoever may end and remove a container is alone with it.
OneAtATime == \A v \in Commands : doing[v] \in {"create", "delete", "collect"} => lock = v

\* A container that ended is its manager's until it is deleted: gc that took it would leave the manager without an answer.
GcTakesNobodys == \A v \in Commands : doing[v] = "collect" => Now = "deleted"

\* The OCI runtime specification's lifecycle, and no edge more.
OnlyTheseEdges == [][Now # state'["c"] => <<Now, state'["c"]>> \in Edges]_vars

\* Refused, failed or deleted, an id may be used again: what is left is taken away by the next command.
TheIdIsFreeInTheEnd == []<>(Now = "deleted")

\* A lock that is never let go of blocks the container for good.
LocksFall == \A v \in Commands : lock = v ~> lock # v

\* What runs is the run's business first: here it is one of GVisorRuntime's, edge by edge.
RunEdges == {<<Steps[n], Steps[n + 1]>> : n \in 1 .. 6} \cup {<<Steps[n], "refused">> : n \in 1 .. 6}
            \cup {<<"none", "start">>} \cup {<<r, "none">> : r \in Runs}
RunIsGVisorRuntimes == [][run' # run => <<RunAt, run'["c"]>> \in RunEdges]_vars
=============================================================================
