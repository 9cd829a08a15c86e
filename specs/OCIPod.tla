------------------------------- MODULE OCIPod -------------------------------
(***************************************************************************)
(* A pod: a sandbox, which is a container itself, and members, which live  *)
(* in it.  Each has a record and a lock of its own, as OCIRuntime models   *)
(* for one; what they share is modelled here: runsc's root, which lies in  *)
(* the sandbox's directory and has runsc's file about every one of them.   *)
(*                                                                         *)
(* Managers create and delete them in any order, several commands at once, *)
(* and any command is killed between any two of its steps.  A member's     *)
(* lock is taken before the sandbox's, never after it.                     *)
(*                                                                         *)
(* A member has no process on the host.  So its creation starts one, which *)
(* waits for the member and returns its exit code: the waiter (the code's  *)
(* monitor).  Managers wait for that; the engine itself asks runsc, as a   *)
(* waiter can be killed.  A manager deletes no container whose process it  *)
(* still sees, so a waiter that stays keeps its member, and so the pod.    *)
(*                                                                         *)
(* Left out on purpose.                                                    *)
(*   - What a creation checks, and its steps: GVisorRuntime has them.      *)
(*   - running, paused: OCIRuntime has them; here a container is alive,    *)
(*     and a member was started or not.                                    *)
(*   - A new creation of an id while the waiter of the last one ends.      *)
(*   - gc: it removes what a delete removes, where runsc has no file.      *)
(***************************************************************************)
EXTENDS Naturals

CONSTANTS
    Commands,   \* engine processes that act on the pod
    Members,    \* containers that can be in the sandbox
    Nobody,     \* holds a lock that is free
    Crashes     \* how often a command is killed in one behaviour

VARIABLES
    lock,       \* by container: who holds it
    doing,      \* by command: what it does
    at,         \* by command: to which container
    record,     \* by container: the engine's record of it is there; a member's names the sandbox
    file,       \* by container: runsc's own file about it is there, in the sandbox's root
    alive,      \* by container: it has processes
    root,       \* the sandbox's root is there
    started,    \* by member: runsc's file about it says that it was started
    waiter,     \* by member: a process waits for its end
    told,       \* how the last waiter ended: with the member's exit code, or without one
    crashes     \* how many commands, and waiters, have been killed

vars == <<lock, doing, at, record, file, alive, root, started, waiter, told, crashes>>
standing == <<started, waiter, told>>

Sandbox == "sandbox"
Containers == Members \cup {Sandbox}

HasMembers == \E m \in Members : record[m]
\* Deleted; the record stays while members need its directory.
IsOver == record[Sandbox] /\ ~file[Sandbox] /\ ~alive[Sandbox]

Init ==
    /\ lock = [c \in Containers |-> Nobody]
    /\ doing = [v \in Commands |-> "nothing"]
    /\ at = [v \in Commands |-> Sandbox]
    /\ record = [c \in Containers |-> FALSE]
    /\ file = [c \in Containers |-> FALSE]
    /\ alive = [c \in Containers |-> FALSE]
    /\ root = FALSE
    /\ started = [m \in Members |-> FALSE]
    /\ waiter = [m \in Members |-> FALSE]
    /\ told = "code"
    /\ crashes = 0

Goes(v, what) == doing' = [doing EXCEPT ![v] = what]
Take(v, c) ==
    /\ lock[c] = Nobody
    /\ lock' = [lock EXCEPT ![c] = v]
Begin(v, c, what) ==
    /\ doing[v] = "nothing"
    /\ Take(v, c)
    /\ Goes(v, what)
    /\ at' = [at EXCEPT ![v] = c]
\* Release whatever the command holds.
LetGo(v) ==
    /\ lock' = [c \in Containers |-> IF lock[c] = v THEN Nobody ELSE lock[c]]
    /\ Goes(v, "nothing")
    /\ at' = [at EXCEPT ![v] = Sandbox]

-----------------------------------------------------------------------------
(* The sandbox is created.                                                 *)

\* Nothing of it is alive, and no member of an earlier one is left.  Make a new root.
Make(v) ==
    /\ Begin(v, Sandbox, "make")
    /\ ~file[Sandbox] /\ ~alive[Sandbox] /\ ~HasMembers
    /\ record' = [record EXCEPT ![Sandbox] = TRUE]
    /\ root' = TRUE
    /\ file' = [c \in Containers |-> FALSE]
    /\ UNCHANGED <<alive, crashes, standing>>

Up(v) ==
    /\ doing[v] = "make"
    /\ file' = [file EXCEPT ![Sandbox] = TRUE]
    /\ alive' = [alive EXCEPT ![Sandbox] = TRUE]
    /\ LetGo(v)
    /\ UNCHANGED <<record, root, crashes, standing>>

-----------------------------------------------------------------------------
(* A member is created.                                                    *)

Own(v, m) ==
    /\ Begin(v, m, "own")
    /\ ~record[m] /\ ~waiter[m]
    /\ UNCHANGED <<record, file, alive, root, crashes, standing>>

\* The sandbox's lock keeps others from deleting it ...
Join(v) ==
    /\ doing[v] = "own"
    /\ Take(v, Sandbox)
    /\ Goes(v, "join")
    /\ UNCHANGED <<at, record, file, alive, root, crashes, standing>>

\* ... and before it is released, the record says who needs the sandbox's directory.
Note(v) ==
    /\ doing[v] = "join"
    /\ record[Sandbox] /\ file[Sandbox] /\ alive[Sandbox]
    /\ record' = [record EXCEPT ![at[v]] = TRUE]
    /\ lock' = [lock EXCEPT ![Sandbox] = Nobody]
    /\ Goes(v, "create")
    /\ UNCHANGED <<at, file, alive, root, standing, crashes>>

\* There is no such sandbox, or it is not alive.
Refuse(v) ==
    /\ doing[v] \in {"own", "join"}
    /\ LetGo(v)
    /\ UNCHANGED <<record, file, alive, root, crashes, standing>>

\* runsc asks the sandbox, which it finds in the root.
Enter(v) ==
    /\ doing[v] = "create"
    /\ root /\ alive[Sandbox]
    /\ file' = [file EXCEPT ![at[v]] = TRUE]
    /\ alive' = [alive EXCEPT ![at[v]] = TRUE]
    /\ started' = [started EXCEPT ![at[v]] = FALSE]
    /\ Goes(v, "stand")
    /\ UNCHANGED <<lock, at, record, root, crashes, waiter, told>>

\* The parent starts the waiter.  Killed before, it leaves none.
Stand(v) ==
    /\ doing[v] = "stand"
    /\ waiter' = [waiter EXCEPT ![at[v]] = TRUE]
    /\ LetGo(v)
    /\ UNCHANGED <<record, file, alive, root, started, told, crashes>>

\* runsc refuses, or the sandbox died meanwhile: the parent removes what there is.
GiveUp(v) ==
    /\ doing[v] = "create"
    /\ Goes(v, "delete")
    /\ UNCHANGED <<lock, at, record, file, alive, root, crashes, standing>>

-----------------------------------------------------------------------------
(* Ends, and deletions.                                                    *)

\* When a sandbox ends, its members end with it.
End(c) ==
    /\ alive[c]
    /\ alive' = [d \in Containers |-> IF c \in {d, Sandbox} THEN FALSE ELSE alive[d]]
    /\ UNCHANGED <<lock, doing, at, record, file, root, crashes, standing>>

TakeToDelete(v, c) ==
    /\ Begin(v, c, "delete")
    /\ record[c] /\ ~alive[c]
    /\ UNCHANGED <<record, file, alive, root, crashes, standing>>

\* runsc deletes it.
Delete(v) ==
    /\ doing[v] = "delete"
    /\ file' = [file EXCEPT ![at[v]] = FALSE]
    /\ started' = [m \in Members |-> started[m] /\ m # at[v]]
    /\ Goes(v, "forget")
    /\ UNCHANGED <<lock, at, record, alive, root, crashes, waiter, told>>

ForgetMember(v) ==
    /\ doing[v] = "forget" /\ at[v] # Sandbox
    /\ record' = [record EXCEPT ![at[v]] = FALSE]
    /\ Goes(v, "leave")
    /\ UNCHANGED <<lock, at, file, alive, root, crashes, standing>>

\* A command that deletes the sandbox after this check counts the members later still.
Leave(v) ==
    /\ doing[v] = "leave"
    /\ ~IsOver
    /\ LetGo(v)
    /\ UNCHANGED <<record, file, alive, root, crashes, standing>>

\* A member whose sandbox is deleted removes what is left of the sandbox.
LookAfter(v) ==
    /\ doing[v] = "leave"
    /\ IsOver
    /\ Take(v, Sandbox)
    /\ Goes(v, "forget")
    /\ at' = [at EXCEPT ![v] = Sandbox]
    /\ UNCHANGED <<record, file, alive, root, crashes, standing>>

\* The root stays for the members ...
Keep(v) ==
    /\ doing[v] = "forget" /\ at[v] = Sandbox
    /\ HasMembers
    /\ LetGo(v)
    /\ UNCHANGED <<record, file, alive, root, crashes, standing>>

\* ... and is removed when there are none; the record is removed last.
RemoveRoot(v) ==
    /\ doing[v] = "forget" /\ at[v] = Sandbox
    /\ ~HasMembers
    /\ root' = FALSE
    /\ file' = [c \in Containers |-> FALSE]
    /\ Goes(v, "last")
    /\ UNCHANGED <<lock, at, record, alive, crashes, standing>>

Forget(v) ==
    /\ doing[v] = "last"
    /\ record' = [record EXCEPT ![Sandbox] = FALSE]
    /\ LetGo(v)
    /\ UNCHANGED <<file, alive, root, crashes, standing>>

-----------------------------------------------------------------------------
(* Until the member is started, its waiter reads runsc's file, which stays *)
(* as it is when the sandbox ends: so it looks at the sandbox, too.        *)
(* Then it asks the sandbox, which answers when the member has ended, with *)
(* its exit code if the sandbox is alive and runsc has its file.           *)

Start(m) ==
    /\ alive[m] /\ file[m] /\ ~started[m]
    /\ started' = [started EXCEPT ![m] = TRUE]
    /\ UNCHANGED <<lock, doing, at, record, file, alive, root, waiter, told, crashes>>

WaiterSeesNoStart(m) ==
    /\ waiter[m] /\ ~started[m]
    /\ ~file[m] \/ ~alive[Sandbox]
    /\ waiter' = [waiter EXCEPT ![m] = FALSE]
    /\ told' = "killed"
    /\ UNCHANGED <<lock, doing, at, record, file, alive, root, started, crashes>>

Answers(m) == alive[Sandbox] /\ file[m]
WaiterIsAnswered(m) ==
    /\ waiter[m] /\ started[m] /\ ~alive[m]
    /\ waiter' = [waiter EXCEPT ![m] = FALSE]
    /\ told' = IF Answers(m) THEN "code" ELSE "killed"
    /\ UNCHANGED <<lock, doing, at, record, file, alive, root, started, crashes>>

WaiterIsKilled(m) ==
    /\ waiter[m]
    /\ crashes < Crashes
    /\ crashes' = crashes + 1
    /\ waiter' = [waiter EXCEPT ![m] = FALSE]
    /\ told' = "killed"
    /\ UNCHANGED <<lock, doing, at, record, file, alive, root, started>>

\* What `state` says of a member of which runsc has a file: whether it is alive, and its process.
SaysAlive(m) == record[m] /\ file[m] /\ alive[m]

-----------------------------------------------------------------------------
(* A command is killed.  Its locks are released; all else stays.           *)

Crash(v) ==
    /\ doing[v] # "nothing"
    /\ crashes < Crashes
    /\ crashes' = crashes + 1
    /\ LetGo(v)
    /\ UNCHANGED <<record, file, alive, root, standing>>

Next ==
    \/ \E v \in Commands :
        \/ Make(v) \/ Up(v) \/ Join(v) \/ Note(v) \/ Refuse(v) \/ Enter(v) \/ Stand(v) \/ GiveUp(v)
        \/ Delete(v) \/ ForgetMember(v) \/ Leave(v) \/ LookAfter(v) \/ Keep(v) \/ RemoveRoot(v) \/ Forget(v)
        \/ Crash(v)
        \/ \E m \in Members : Own(v, m)
        \/ \E c \in Containers : TakeToDelete(v, c)
    \/ \E c \in Containers : End(c)
    \/ \E m \in Members : Start(m) \/ WaiterSeesNoStart(m) \/ WaiterIsAnswered(m) \/ WaiterIsKilled(m)

Spec == Init /\ [][Next]_vars

\* A manager sees a process of it.
IsSeen(c) == alive[c] \/ (c \in Members /\ waiter[c])

\* Every command that can continue does, every wait for a lock ends, and everything alive ends.  A manager deletes every
\* container that it created and whose process has ended, and does not ask again for a deleted one.
Fairness ==
    /\ \A v \in Commands :
        /\ WF_vars(Up(v) \/ Stand(v) \/ Forget(v)) /\ WF_vars(Note(v) \/ Refuse(v)) /\ WF_vars(Enter(v) \/ GiveUp(v))
        /\ WF_vars(Delete(v) \/ ForgetMember(v) \/ Keep(v) \/ RemoveRoot(v))
        /\ WF_vars(Leave(v)) /\ SF_vars(LookAfter(v))
    /\ \A c \in Containers : SF_vars(\E v \in Commands : file[c] /\ ~IsSeen(c) /\ TakeToDelete(v, c))
    /\ \A c \in Containers : WF_vars(End(c))
    /\ \A m \in Members : WF_vars(WaiterSeesNoStart(m) \/ WaiterIsAnswered(m))

FairSpec == Spec /\ Fairness

-----------------------------------------------------------------------------
TypeOK ==
    /\ lock \in [Containers -> Commands \cup {Nobody}]
    /\ doing \in [Commands -> {"nothing", "make", "own", "join", "create", "stand", "delete", "forget", "leave", "last"}]
    /\ at \in [Commands -> Containers]
    /\ record \in [Containers -> BOOLEAN]
    /\ file \in [Containers -> BOOLEAN]
    /\ alive \in [Containers -> BOOLEAN]
    /\ root \in BOOLEAN
    /\ started \in [Members -> BOOLEAN]
    /\ waiter \in [Members -> BOOLEAN]
    /\ told \in {"code", "killed"}
    /\ crashes \in 0 .. Crashes

\* Without the root runsc could neither act on the member nor delete it.
MembersHaveTheirRoot == HasMembers => root /\ record[Sandbox]

\* runsc's file about a container stays until runsc has deleted that container, whatever happens to the others.
OnlyADeleteTakesAFile ==
    [][\A c \in Containers : file[c] /\ ~file'[c] => \E v \in Commands : doing[v] = "delete" /\ at[v] = c]_vars

\* A member cannot exist without its sandbox, nor outlive it.
MembersLiveInTheSandbox == \A m \in Members : alive[m] => alive[Sandbox]

\* Without a record nobody could find it, and so nobody could end or remove it.
NoOrphan == \A c \in Containers : alive[c] \/ file[c] => record[c]

\* Only one command at a time acts on a container.
OneAtATime == \A v \in Commands : doing[v] # "nothing" => lock[at[v]] = v

\* `state` is right with a waiter, without one, and after one was killed.
StateNeedsNoWaiter == \A m \in Members : file[m] => (SaysAlive(m) <=> alive[m])

\* To a manager the waiter's end is the member's.  So unless the waiter is killed it ends no sooner ...
NoWaiterEndsEarly ==
    [][\A m \in Members : waiter[m] /\ ~waiter'[m] /\ crashes' = crashes => ~alive[m]]_vars

\* ... returns the exit code, where that can be known ...
NoExitCodeIsLost ==
    [][\A m \in Members : waiter[m] /\ ~waiter'[m] /\ crashes' = crashes /\ alive[Sandbox] /\ file[m]
           => told' = "code"]_vars

\* ... and does end.
NoWaiterIsLeft == \A m \in Members : waiter[m] ~> ~waiter[m]

\* In whatever order they are deleted, nothing is left in the end, unless there is a new sandbox by then.
NothingIsLeft == IsOver ~> ~IsOver
=============================================================================
