------------------------------- MODULE Search -------------------------------
(***************************************************************************)
(* Which states of GVisorRuntime TLC explores: of several that go on alike *)
(* it explores one.                                                        *)
(*                                                                         *)
(* `View` is what a later step or an invariant can still read of a state.  *)
(* It leaves out only what no one reads any more, such as the file at a    *)
(* path once every run has opened its own.  Every step to such a state is  *)
(* still taken and checked.  tests/model_based/test_spec_view.py explores  *)
(* models without `View`, and shows that states of one `View` go on alike. *)
(***************************************************************************)
EXTENDS GVisorRuntime

\* Only Resolve and Validate read the path.
ReadsPath == ~Pinning \/ \E r \in Runs : state[r] \in {"start", "resolved"}

\* Whether the owner wrote the file anew: Stage is the last to compare it with what was validated.
ReadsBytes == ~Pinning \/ \E r \in Runs : state[r] \in {"start", "resolved", "validated", "root_secured"}

\* SecureRoot makes these anew, as gc does, so until a run has secured its root nobody reads them.
ReadsNest(i)     == \E r \in Runs : id[r] = i /\ (state[r] \in Past("root_secured") \/ onDisk[r] # NoneOfIt)
ReadsLeftover(i) == \E r \in Runs : id[r] = i /\ Owns(r)

\* Once all runs are over, no run looks at the world and no move of the adversary is left.
GoesOn == \E r \in Runs : state[r] \notin Terminal \/ (alive[r] /\ \E p \in Parts : ran[r][p] = Nothing)

\* Of a refused run, the properties read the bytes that it validated, the reason, and what it left.
OfTheRun(r) ==
    IF state[r] = "refused"
    THEN <<state[r], option[r].asRoot, failed[r], why[r], validated[r], handle[r], inForce[r]>>
    ELSE <<state[r], option[r], failed[r], why[r], validated[r], handle[r], inForce[r],
           policy[r], probed[r], seen[r], place[r]>>

Seen ==
    <<[r \in Runs |-> OfTheRun(r)],
      id, pinned, copied, shared, onDisk, stored, ran, alive, cleaned, config, root, lock, intact,
      [i \in Ids |-> IF ReadsNest(i) THEN nest[i] ELSE Nothing],
      [i \in Ids |-> ReadsLeftover(i) /\ leftover[i]],
      IF ReadsPath THEN path ELSE Nothing,
      IF ReadsBytes THEN rewritten ELSE Nothing,
      IF GoesOn THEN <<enforceable, base, programs, bundle>> ELSE Nothing>>

\* What the adversary has spent only limits him.  A move that changes nothing else leads to a state that can do no more.
View == <<Seen, IF GoesOn THEN moves ELSE Nothing>>
=============================================================================
