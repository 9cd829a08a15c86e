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
(* Before its first creation a container counts as `deleted`, too.         *)
(*                                                                         *)
(* `state` is what is true; `Reported` is what the verb `state` works out  *)
(* from what a crash cannot take back: the record, runsc's own state file, *)
(* whether the process that creates it lives, and whether any process      *)
(* executes the staged copy of runsc.  That the two never differ is the    *)
(* main property.  engine/state/oci_lifecycle.py has the same table of     *)
(* verbs, and a test compares the two in every state.                      *)
(*                                                                         *)
(* start, pause and resume are runsc's, which takes two steps: first the   *)
(* sandbox does it, then runsc rewrites its file, which is empty in        *)
(* between.  Killed there, runsc leaves a file that is wrong or cannot be  *)
(* read, and relies on it from then on.  So the engine records what runsc  *)
(* is about to do, and the next command finds out whether it was done.     *)
(*                                                                         *)
(* runsc signals the pids in its file when it deletes.  As the world may   *)
(* give the pid of a process that has ended to another, the engine ends    *)
(* what is alive itself, and lets the file name nobody before that.        *)
(* runsc makes the cgroups before its file, so the record lists them.  One *)
(* in which others are cannot be removed yet, and outlives the record: it  *)
(* stays listed, for gc and for the next creation.                         *)
(*                                                                         *)
(* Modelled: several commands at once on one id, a refusal at every step,  *)
(* a runsc that fails at create or start, a container that ends by itself, *)
(* and a crash of any command between any two of its steps.                *)
(*                                                                         *)
(* Left out on purpose.                                                    *)
(*   - What a step of the run checks: GVisorRuntime has it.                *)
(*   - exec, ps, events, checkpoint, update: they change no state.         *)
(*   - restore and run: they are a create, the latter with a start.        *)
(*   - Other ids and roots: each pair has a directory and a lock of its    *)
(*     own.                                                                *)
(*   - A crash inside kill: a signal is sent or not.                       *)
(*   - A message on its way to the sandbox when its sender dies.           *)
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
    attempt,    \* which of start, pause and resume the engine recorded last; "none" before the first
    alive,      \* some process executes the staged copy of runsc
    handedOff,  \* the run of this very container was handed off
    killed,     \* somebody has sent it a signal that ends it
    named,      \* whose the pid in runsc's file is: "nobody" when it names none, "free" when nobody has it any more
    harmed,     \* runsc has killed a process that was not the container's
    cgroup,     \* the cgroups that runsc made for it are there
    listed,     \* the record, or a list beside it, names them
    crashes     \* how many commands have been killed

vars == <<state, run, lock, doing, record, file, inside, attempt, alive, handedOff, killed, named, harmed, cgroup,
          listed, crashes>>
pids    == <<named, harmed>>
cgroups == <<cgroup, listed>>

\* Only one; it has a name so that the state graph reads like GVisorRuntime's.
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
\* The process that the record names as creator is alive, first as the engine, then as `runsc create`.
BeingCreated == \E v \in Commands : doing[v] = "create"

\* start, pause or resume is in progress: recorded, done by the sandbox, or the file empty.  Only one at a time.
Trying == {"try", "tell", "write"}
BeingTried == \E v \in Commands : doing[v] \in Trying
From(verb) == CASE verb = "start" -> "created" [] verb = "pause" -> "running" [] verb = "resume" -> "paused"
To(verb)   == CASE verb = "start" -> "running" [] verb = "pause" -> "paused"  [] verb = "resume" -> "running"

\* An empty file means that the sandbox has done what was recorded.  If the file is unchanged and the command is dead,
\* the file does not tell: the sandbox is asked.
Known ==
    IF file = "cut" THEN To(attempt)
    ELSE IF attempt # "none" /\ ~BeingTried /\ file = From(attempt) THEN inside
    ELSE file

\* What the verb `state` says.  A container without runsc's file is being created, or its creation was interrupted.
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
    /\ named = "nobody"
    /\ harmed = FALSE
    /\ cgroup = FALSE
    /\ listed = FALSE
    /\ crashes = 0

\* The process in runsc's file has ended: the world may give its pid to another.
PidIsFreed ==
    /\ named' = IF named = "ours" THEN "free" ELSE named
    /\ harmed' = harmed

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
    /\ UNCHANGED <<state, lock, record, file, inside, attempt, alive, handedOff, killed, crashes, pids, cgroups>>

Resolve(v) ==
    /\ doing[v] = "begin" /\ RunAt = "start"
    /\ RunComesTo("resolved")
    /\ UNCHANGED <<state, lock, doing, record, file, inside, attempt, alive, handedOff, killed, crashes, pids, cgroups>>

Validate(v) ==
    /\ doing[v] = "begin" /\ RunAt = "resolved"
    /\ RunComesTo("validated")
    /\ UNCHANGED <<state, lock, doing, record, file, inside, attempt, alive, handedOff, killed, crashes, pids, cgroups>>

\* Write the record only when the lock is free and nothing of this id is alive.  First remove what the last creation
\* left: the new record lists the cgroups that are missing.
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
    /\ cgroup' \in {FALSE, cgroup}
    /\ listed' = cgroup'
    /\ UNCHANGED <<file, inside, alive, crashes, pids>>

Stage(v) ==
    /\ doing[v] = "create" /\ RunAt = "root_secured"
    /\ RunComesTo("staged")
    /\ UNCHANGED <<state, lock, doing, record, file, inside, attempt, alive, handedOff, killed, crashes, pids, cgroups>>

ApplyPolicy(v) ==
    /\ doing[v] = "create" /\ RunAt = "staged"
    /\ RunComesTo("policy_settled")
    /\ UNCHANGED <<state, lock, doing, record, file, inside, attempt, alive, handedOff, killed, crashes, pids, cgroups>>

\* execve into `runsc create`, which holds the lock until it ends.  The record lists the cgroups that runsc will make.
Exec(v) ==
    /\ doing[v] = "create" /\ RunAt = "policy_settled"
    /\ RunComesTo("handed_off")
    /\ handedOff' = TRUE
    /\ listed' = (listed \/ ~cgroup)
    /\ cgroup' = cgroup
    /\ UNCHANGED <<state, lock, doing, record, file, inside, attempt, alive, killed, crashes, pids>>

\* runsc makes cgroups ...
MakeCgroups(v) ==
    /\ doing[v] = "create" /\ RunAt = "handed_off"
    /\ ~cgroup
    /\ cgroup' = TRUE
    /\ UNCHANGED <<state, run, lock, doing, record, file, inside, attempt, alive, handedOff, killed, crashes, pids,
                   listed>>

\* ... starts the gofer and the sandbox ...
Boot(v) ==
    /\ doing[v] = "create" /\ RunAt = "handed_off"
    /\ file = "none" /\ ~alive /\ cgroup
    /\ alive' = TRUE
    /\ UNCHANGED <<state, run, lock, doing, record, file, inside, attempt, handedOff, killed, crashes, pids, cgroups>>

\* ... and says so in its file when both are up.
Complete(v) ==
    /\ doing[v] = "create" /\ RunAt = "handed_off"
    /\ alive
    /\ file' = "created"
    /\ named' = "ours"
    /\ harmed' = harmed
    /\ inside' = "created"
    /\ RunComesTo("none")
    /\ Becomes("created")
    /\ LetGo(v)
    /\ UNCHANGED <<record, attempt, alive, handedOff, killed, crashes, cgroups>>

\* A run refused before it has the lock has made nothing.
RefuseRun(v) ==
    /\ doing[v] = "begin"
    /\ RunComesTo("refused")
    /\ doing' = [doing EXCEPT ![v] = "nothing"]
    /\ UNCHANGED <<state, lock, record, file, inside, attempt, alive, handedOff, killed, crashes, pids, cgroups>>

\* Refused later, it removes the record.
Refuse(v) ==
    /\ doing[v] = "create" /\ RunAt # "handed_off"
    /\ RunComesTo("refused")
    /\ record' = FALSE
    /\ Becomes("deleted")
    /\ LetGo(v)
    /\ UNCHANGED <<file, inside, attempt, alive, handedOff, killed, crashes, pids, cgroups>>

\* runsc refuses, and ends what it started; its cgroups may stay.  The record stays for the parent, which is one more
\* command that deletes, or if that is killed, for the next command.
RefuseCreate(v) ==
    /\ doing[v] = "create" /\ RunAt = "handed_off"
    /\ alive' = FALSE
    /\ RunComesTo("none")
    /\ Becomes("deleted")
    /\ LetGo(v)
    /\ UNCHANGED <<record, file, inside, attempt, handedOff, killed, crashes, pids, cgroups>>

\* The process of a refused run has ended; the next may begin.
Ended ==
    /\ RunAt = "refused"
    /\ RunComesTo("none")
    /\ UNCHANGED <<state, lock, doing, record, file, inside, attempt, alive, handedOff, killed, crashes, pids, cgroups>>

-----------------------------------------------------------------------------
(* start, pause and resume: the engine records it and becomes runsc.       *)

\* One at a time.  First repair the file if an earlier command was killed: runsc relies on its file, and a sandbox that
\* is paused twice, or resumed when it is not paused, is lost.
Try(v, verb) ==
    /\ doing[v] = "nothing"
    /\ ~BeingTried
    /\ Reported = From(verb)
    /\ file' = From(verb)
    /\ attempt' = verb
    /\ doing' = [doing EXCEPT ![v] = "try"]

Noted == UNCHANGED <<state, run, lock, record, inside, alive, handedOff, killed, crashes, pids, cgroups>>
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

Untold == UNCHANGED <<run, lock, record, file, attempt, alive, handedOff, killed, crashes, pids, cgroups>>
Start(v)  == Done(v, "start") /\ Untold
Pause(v)  == Done(v, "pause") /\ Untold
Resume(v) == Done(v, "resume") /\ Untold

\* ... runsc empties its file ...
Empty(v) ==
    /\ doing[v] = "tell"
    /\ file' = "cut"
    /\ doing' = [doing EXCEPT ![v] = "write"]
    /\ UNCHANGED <<state, run, lock, record, inside, attempt, alive, handedOff, killed, crashes, pids, cgroups>>

\* ... and writes it.
Tell(v) ==
    /\ doing[v] = "write"
    /\ file' = To(attempt)
    /\ doing' = [doing EXCEPT ![v] = "nothing"]
    /\ UNCHANGED <<state, run, lock, record, inside, attempt, alive, handedOff, killed, crashes, pids, cgroups>>

\* The sandbox is gone, or runsc refuses: nothing was done.
GiveUp(v) ==
    /\ doing[v] = "try"
    /\ doing' = [doing EXCEPT ![v] = "nothing"]
    /\ UNCHANGED <<state, run, lock, record, file, inside, attempt, alive, handedOff, killed, crashes, pids, cgroups>>

\* A start that fails ends what was created.
RefuseStart(v) ==
    /\ doing[v] = "try" /\ attempt = "start"
    /\ file = "created" /\ alive
    /\ alive' = FALSE
    /\ PidIsFreed
    /\ Becomes("stopped")
    /\ doing' = [doing EXCEPT ![v] = "nothing"]
    /\ UNCHANGED <<run, lock, record, file, inside, attempt, handedOff, killed, crashes, cgroups>>

-----------------------------------------------------------------------------
(* The other verbs that are runsc's alone.                                 *)

\* Every verb that relies on runsc's file repairs it first.
Mend ==
    /\ ~BeingTried
    /\ alive /\ file \notin {"none", Known}
    /\ file' = Known
    /\ UNCHANGED <<state, run, lock, doing, record, inside, attempt, alive, handedOff, killed, crashes, pids, cgroups>>

\* runsc sends no signal to a paused container.
Kill ==
    /\ alive /\ Reported \in {"created", "running"}
    /\ ~killed
    /\ killed' = TRUE
    /\ UNCHANGED <<state, run, lock, doing, record, file, inside, attempt, alive, handedOff, crashes, pids, cgroups>>

\* The container ends: killed, by itself, or because it is being deleted.
End ==
    /\ file # "none" /\ alive
    /\ alive' = FALSE
    /\ PidIsFreed
    /\ Becomes("stopped")
    /\ UNCHANGED <<run, lock, doing, record, file, inside, attempt, handedOff, killed, crashes, cgroups>>

-----------------------------------------------------------------------------
(* delete and gc.                                                          *)

\* delete is for a container that has ended or was never started.
TakeToDelete(v) ==
    /\ doing[v] = "nothing"
    /\ lock = Nobody
    /\ record
    /\ Reported \in {"created", "stopped", "deleted"}
    /\ lock' = v
    /\ doing' = [doing EXCEPT ![v] = "delete"]
    /\ UNCHANGED <<state, run, record, file, inside, attempt, alive, handedOff, killed, crashes, pids, cgroups>>

\* runsc checks again, under its own lock: a container started meanwhile is not deleted ...
Decline(v) ==
    /\ doing[v] = "delete"
    /\ alive /\ file \in {"running", "paused", "cut"}
    /\ LetGo(v)
    /\ UNCHANGED <<state, run, record, file, inside, attempt, alive, handedOff, killed, crashes, pids, cgroups>>

\* ... otherwise it is ended first.
EndCreated(v) ==
    /\ doing[v] = "delete"
    /\ alive /\ file = "created"
    /\ alive' = FALSE
    /\ PidIsFreed
    /\ Becomes("stopped")
    /\ UNCHANGED <<run, lock, doing, record, file, inside, attempt, handedOff, killed, crashes, cgroups>>

\* delete --force ends whatever is running.
TakeByForce(v) ==
    /\ doing[v] = "nothing"
    /\ lock = Nobody
    /\ record
    /\ lock' = v
    /\ doing' = [doing EXCEPT ![v] = "delete"]
    /\ killed' = TRUE
    /\ UNCHANGED <<state, run, record, file, inside, attempt, alive, handedOff, crashes, pids, cgroups>>

\* gc, and another creation of this id, remove what a killed creation left, and nothing that is in use.
Collect(v) ==
    /\ doing[v] = "nothing"
    /\ lock = Nobody
    /\ record
    /\ Vacant
    /\ lock' = v
    /\ doing' = [doing EXCEPT ![v] = "collect"]
    /\ UNCHANGED <<state, run, record, file, inside, attempt, alive, handedOff, killed, crashes, pids, cgroups>>

\* Once the container has ended, and while no other runsc writes that file, the engine lets runsc's file name nobody.
Disown(v) ==
    /\ doing[v] = "delete"
    /\ \A w \in Commands : doing[w] \notin {"tell", "write"}
    /\ file # "none" /\ ~alive
    /\ named # "nobody"
    /\ named' = "nobody"
    /\ UNCHANGED <<state, run, lock, doing, record, file, inside, attempt, alive, handedOff, killed, crashes, harmed,
                   cgroups>>

\* If runsc has a file about the container, runsc deletes it, and kills whoever the file names.  Processes that a
\* creation left without a file are ended by the engine, and so is a runsc that was to start, pause or resume.
Delete(v) ==
    /\ doing[v] = "delete"
    /\ \A w \in Commands : doing[w] \notin {"tell", "write"}
    /\ \/ file # "none" /\ named = "nobody"
       \/ file = "none" /\ alive
    /\ file' = "none"
    /\ alive' = (alive /\ file # "none")
    /\ harmed' = (harmed \/ named = "anothers")
    /\ named' = "nobody"
    /\ cgroup' = (cgroup /\ file = "none")
    /\ listed' = listed
    /\ Becomes("deleted")
    /\ doing' = [w \in Commands |-> IF doing[w] = "try" THEN "nothing" ELSE doing[w]]
    /\ UNCHANGED <<run, lock, record, inside, attempt, handedOff, killed, crashes>>

\* Remove the record last, after the cgroups that it lists: while anything is left, the next command can find it.  A
\* cgroup that cannot be removed, as others are in it, is listed beside the record first.
Forget(v) ==
    /\ doing[v] \in {"delete", "collect"}
    /\ Vacant
    /\ record' = FALSE
    /\ cgroup' \in {cgroup /\ ~listed, cgroup}
    /\ listed' = (listed /\ cgroup')
    /\ LetGo(v)
    /\ UNCHANGED <<state, run, file, inside, attempt, alive, handedOff, killed, crashes, pids>>

\* Once nobody is in it any more, gc removes it.
RemoveListed ==
    /\ lock = Nobody
    /\ ~record /\ Vacant
    /\ listed
    /\ cgroup' = FALSE
    /\ listed' = FALSE
    /\ UNCHANGED <<state, run, lock, doing, record, file, inside, attempt, alive, handedOff, killed, crashes, pids>>

-----------------------------------------------------------------------------
(* The world starts and ends processes of its own.                         *)

PidGoesToAnother ==
    /\ named = "free"
    /\ named' = "anothers"
    /\ UNCHANGED <<state, run, lock, doing, record, file, inside, attempt, alive, handedOff, killed, crashes, harmed,
                   cgroups>>

TheOtherEnds ==
    /\ named = "anothers"
    /\ named' = "free"
    /\ UNCHANGED <<state, run, lock, doing, record, file, inside, attempt, alive, handedOff, killed, crashes, harmed,
                   cgroups>>

-----------------------------------------------------------------------------
(* A command is killed.  Its lock is released; all else stays.             *)

HoldsTheRun(v) == doing[v] \in {"begin", "create"}

Crash(v) ==
    /\ doing[v] # "nothing"
    /\ crashes < Crashes
    /\ crashes' = crashes + 1
    /\ doing' = [doing EXCEPT ![v] = "nothing"]
    /\ lock' = IF lock = v THEN Nobody ELSE lock
    /\ RunComesTo(IF HoldsTheRun(v) THEN "none" ELSE RunAt)
    /\ Becomes(IF doing[v] = "create" /\ ~alive THEN "deleted" ELSE Now)
    /\ UNCHANGED <<record, file, inside, attempt, alive, handedOff, killed, pids, cgroups>>

Next ==
    \/ \E v \in Commands :
        \/ Begin(v) \/ Resolve(v) \/ Validate(v) \/ Create(v) \/ Stage(v) \/ ApplyPolicy(v) \/ Exec(v)
        \/ MakeCgroups(v) \/ Boot(v) \/ Complete(v) \/ RefuseRun(v) \/ Refuse(v) \/ RefuseCreate(v)
        \/ TakeToDelete(v) \/ TakeByForce(v) \/ Collect(v)
        \/ Decline(v) \/ EndCreated(v) \/ Disown(v) \/ Delete(v) \/ Forget(v) \/ Crash(v)
        \/ TryStart(v) \/ TryPause(v) \/ TryResume(v) \/ Start(v) \/ Pause(v) \/ Resume(v)
        \/ Empty(v) \/ Tell(v) \/ GiveUp(v) \/ RefuseStart(v)
    \/ Ended \/ Mend \/ Kill \/ End \/ RemoveListed \/ PidGoesToAnother \/ TheOtherEnds

Spec == Init /\ [][Next]_vars

\* Every command that can continue does, also one that waits for runsc's lock.  What was killed ends.  A manager that
\* wants a container deleted asks until it is.
Fairness ==
    /\ \A v \in Commands :
        /\ WF_vars(Resolve(v) \/ Validate(v) \/ RefuseRun(v))
        /\ WF_vars(Stage(v) \/ ApplyPolicy(v) \/ Exec(v) \/ MakeCgroups(v) \/ Boot(v) \/ Complete(v))
        /\ WF_vars(Start(v) \/ Pause(v) \/ Resume(v) \/ Empty(v) \/ Tell(v) \/ GiveUp(v))
        /\ SF_vars(Decline(v) \/ EndCreated(v) \/ Disown(v) \/ Delete(v)) /\ WF_vars(Forget(v))
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
    /\ named \in {"nobody", "ours", "free", "anothers"}
    /\ harmed \in BOOLEAN
    /\ cgroup \in BOOLEAN
    /\ listed \in BOOLEAN
    /\ crashes \in 0 .. Crashes

\* `state` tells a manager the truth, whatever was killed before.  While a verb is in progress, both the status before
\* it and the one after it count as true.
StateIsTruthful == Reported = Now \/ (BeingTried /\ Now = To(attempt) /\ Reported = From(attempt))

\* runsc relies on its file alone.
RunscIsNotMisled == \A v \in Commands : doing[v] = "try" /\ alive => file = inside

\* Without a record nobody could find the container, and so nobody could end it.  It is written first, removed last.
NoOrphan == alive \/ file # "none" => record

\* runsc signals pids: one that its file names may be anybody's by the time that the container is deleted.
NobodyElseIsSignalled == ~harmed

\* Whatever is killed, and whoever is in them, the next command finds the cgroups that runsc made.
NoCgroupStays == cgroup => listed

\* A container that did not pass the lifecycle's steps was not checked.  Only Exec hands off.
NeverWithoutHandOff == alive => handedOff

\* If a second creation or gc removed a live container's directory, nobody could reach the container.
TheLivingKeepTheirs == [][alive /\ alive' => record']_vars

\* Only one command at a time may end and remove a container.
OneAtATime == \A v \in Commands : doing[v] \in {"create", "delete", "collect"} => lock = v

\* A container that ended stays until its manager deletes it: if gc removed it, the manager would get no answer.
GcTakesNobodys == \A v \in Commands : doing[v] = "collect" => Now = "deleted"

\* The OCI runtime specification's lifecycle, and no other edge.
OnlyTheseEdges == [][Now # state'["c"] => <<Now, state'["c"]>> \in Edges]_vars

\* After a refusal, a failure or a deletion an id can be used again: the next command removes what is left.
TheIdIsFreeInTheEnd == []<>(Now = "deleted")

\* A lock that is never released would block the container for good.
LocksFall == \A v \in Commands : lock = v ~> lock # v

\* The run inside a creation follows GVisorRuntime, edge by edge.
RunEdges == {<<Steps[n], Steps[n + 1]>> : n \in 1 .. 6} \cup {<<Steps[n], "refused">> : n \in 1 .. 6}
            \cup {<<"none", "start">>} \cup {<<r, "none">> : r \in Runs}
RunIsGVisorRuntimes == [][run' # run => <<RunAt, run'["c"]>> \in RunEdges]_vars
=============================================================================
