--------------------------- MODULE NucleusGVisor ---------------------------
(***************************************************************************)
(* The published claim about running a workload under gVisor, in two       *)
(* states and one action: a workload leaves the native kernel for gVisor's *)
(* and from then on all its system calls are intercepted, so that it       *)
(* reaches fewer than a hundred of the host kernel's.                      *)
(*                                                                         *)
(* GVisorRuntime has how a workload gets there safely, and refines this.   *)
(***************************************************************************)
EXTENDS Naturals

VARIABLES
    kernel,         \* which kernel the workload's system calls go to
    intercepted,    \* which of them a kernel other than the host's answers
    hostCalls       \* how many of the host kernel's system calls it can reach

vars == <<kernel, intercepted, hostCalls>>

\* Linux 6 has some 350 system calls on x86-64 (syscalls(2)); a native workload reaches them all.
NativeCalls == 350

\* The published bound.
Few == 0 .. 99

Init ==
    /\ kernel = "native_kernel"
    /\ intercepted = "none"
    /\ hostCalls = NativeCalls

Enter ==
    /\ kernel = "native_kernel"
    /\ kernel' = "gvisor_kernel"
    /\ intercepted' = "all"
    /\ hostCalls' \in Few

\* A workload does not go back to the native kernel: the other half of the claim.
Done ==
    /\ kernel = "gvisor_kernel"
    /\ UNCHANGED vars

Next == Enter \/ Done

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------

TypeOK ==
    /\ kernel \in {"native_kernel", "gvisor_kernel"}
    /\ intercepted \in {"none", "all"}
    /\ hostCalls \in Few \cup {NativeCalls}

\* All that an operator is promised.
GVisorIntercepts ==
    kernel = "gvisor_kernel" => intercepted = "all" /\ hostCalls \in Few
=============================================================================
