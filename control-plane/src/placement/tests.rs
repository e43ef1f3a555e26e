//! What the README promises, over random fleets.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hookfleet_contract::name::AgentId;
use hookfleet_proto::fleet::{Leftovers, SlotTable};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IteratorRandom as _};

use super::{Member, Policy, Problem, Ramp, owner, previous, solve};

fn id(number: u32) -> AgentId {
    format!("a{number}").parse().unwrap()
}

fn member(id: &AgentId, weight: u32) -> Member {
    Member {
        address: format!("http://{id}:1"),
        weight,
        ..Member::default()
    }
}

fn problem(slot_count: u16, weights: &[(u32, u32)], lost: &[u32]) -> Problem {
    let agents = weights.iter().map(|(number, weight)| {
        let id = id(*number);
        (id.clone(), member(&id, *weight))
    });
    Problem {
        slot_count,
        agents: agents.collect(),
        lost: lost.iter().map(|number| id(*number)).collect(),
        policy: Policy::default(),
    }
}

fn equal(numbers: impl IntoIterator<Item = u32>) -> Problem {
    let weights: Vec<_> = numbers.into_iter().map(|number| (number, 100)).collect();
    problem(1024, &weights, &[])
}

/// Everybody has heard of the table and has nothing left of other slots.
fn settled(mut problem: Problem, table: &SlotTable) -> Problem {
    for member in problem.agents.values_mut() {
        member.leftovers = Leftovers {
            slot_table_version: table.version,
            slots: Vec::new(),
        };
    }
    problem
}

/// The table after everything that was left is delivered.
fn settle(problem: &Problem, table: SlotTable) -> SlotTable {
    let problem = settled(problem.clone(), &table);
    solve(&problem, &table).unwrap_or(table)
}

fn counts(table: &SlotTable) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for slot in (0..).take(table.slot_owners.len()) {
        let owner = owner(table, slot).map(|it| it.agent_id.clone());
        *counts.entry(owner.unwrap_or_default()).or_default() += 1;
    }
    counts
}

fn n_moved(before: &SlotTable, after: &SlotTable) -> usize {
    let id = |table, slot| owner(table, slot).map(|it| it.agent_id.clone());
    (0..)
        .take(after.slot_owners.len())
        .filter(|slot| id(before, *slot) != id(after, *slot))
        .count()
}

#[test]
fn the_first_agent_gets_every_slot() {
    let table = solve(&equal([1]), &SlotTable::default()).unwrap();
    assert_eq!((table.version, &table.epochs), (1, &vec![1; 1024]));
    assert_eq!(owner(&table, 3).unwrap().address, "http://a1:1");
    assert_eq!((owner(&table, 1024), previous(&table, 3)), (None, None));
}

#[test]
fn without_agents_nothing_is_placed() {
    let mut nobody = problem(4, &[], &[]);
    assert_eq!(solve(&nobody, &SlotTable::default()), None);
    let table = solve(&problem(4, &[(1, 100)], &[]), &SlotTable::default()).unwrap();
    nobody.lost.insert(id(1));
    assert_eq!(solve(&nobody, &table), None);
}

#[test]
fn a_new_agent_takes_its_share_and_the_others_exchange_nothing() {
    for (n, least) in [(1, 512), (2, 341), (3, 256), (9, 102), (49, 20)] {
        let before = solve(&equal(0..n), &SlotTable::default()).unwrap();
        let joined = settled(equal(0..=n), &before);
        let after = solve(&joined, &before).unwrap();
        assert_eq!(n_moved(&before, &after), least, "{n} agents and one more");
        assert_eq!(counts(&after)[id(n).as_str()], least);
        let (min, max) = (1024 / (n as usize + 1), 1024usize.div_ceil(n as usize + 1));
        assert!(counts(&after).values().all(|it| (min..=max).contains(it)));
    }
}

#[test]
fn a_moved_slot_names_who_had_it_until_nothing_is_left_there() {
    let before = solve(&equal([1]), &SlotTable::default()).unwrap();
    let mut joined = settled(equal([1, 2]), &before);
    let moving = solve(&joined, &before).unwrap();
    let moved: Vec<u16> = (0..1024)
        .filter(|slot| owner(&moving, *slot).unwrap().agent_id == "a2")
        .collect();
    assert!(
        moved
            .iter()
            .all(|it| previous(&moving, *it).unwrap().agent_id == "a1")
    );
    assert!(moved.iter().all(|it| moving.epochs[usize::from(*it)] == 2));
    // What it said before it heard of the move is not about the move.
    assert_eq!(solve(&joined, &moving), None);

    let kept = i32::from(moved[0]);
    joined.agents.get_mut(&id(1)).unwrap().leftovers = Leftovers {
        slot_table_version: moving.version,
        slots: vec![kept],
    };
    let nearly = solve(&joined, &moving).unwrap();
    let left: Vec<u16> = (0..1024)
        .filter(|it| previous(&nearly, *it).is_some())
        .collect();
    assert_eq!(left, [moved[0]]);
    assert_eq!(n_moved(&moving, &nearly), 0);
    let done = settle(&joined, nearly);
    assert!(done.slot_previous.iter().all(|it| *it == 0));
}

#[test]
fn a_slot_that_is_still_moving_moves_again_only_if_its_owner_is_lost() {
    let before = solve(&equal([1]), &SlotTable::default()).unwrap();
    let moving = solve(&equal([1, 2]), &before).unwrap();
    // Nobody has said anything yet; the third gets only what is at rest.
    let three = solve(&equal([1, 2, 3]), &moving).unwrap();
    for slot in 0..1024 {
        if previous(&moving, slot).is_some() {
            assert_eq!(owner(&three, slot).unwrap().agent_id, "a2");
        }
    }
    let lost = problem(1024, &[(1, 100), (3, 100)], &[2]);
    let after = solve(&lost, &three).unwrap();
    assert!((0..1024).all(|slot| owner(&after, slot).unwrap().agent_id != "a2"));
    assert!(counts(&after).values().all(|count| *count == 512));
}

#[test]
fn an_agent_that_is_away_keeps_its_slots_until_it_is_lost() {
    let before = solve(&equal(0..3), &SlotTable::default()).unwrap();
    let two = settled(equal(0..2), &before);
    assert_eq!(solve(&two, &before), None);
    let lost = Problem {
        lost: BTreeSet::from([id(2)]),
        ..two
    };
    let after = solve(&lost, &before).unwrap();
    assert_eq!(n_moved(&before, &after), counts(&before)["a2"]);
    assert!(after.slot_previous.iter().all(|it| *it == 0));
    // It comes back and gets what it had, as far as shares allow.
    let back = solve(&settled(equal(0..3), &after), &after).unwrap();
    assert_eq!(n_moved(&after, &back), 341);
    assert!(n_moved(&before, &back) < 100, "{}", n_moved(&before, &back));
}

#[test]
fn an_agent_that_drains_gives_everything_away_if_anybody_takes_it() {
    let before = solve(&equal(0..3), &SlotTable::default()).unwrap();
    let mut draining = settled(equal(0..3), &before);
    draining.agents.get_mut(&id(2)).unwrap().weight = 0;
    let after = solve(&draining, &before).unwrap();
    assert_eq!(n_moved(&before, &after), counts(&before)["a2"]);
    assert_eq!(counts(&after).get("a2"), None);
    for member in draining.agents.values_mut() {
        member.weight = 0;
    }
    let after = settle(&draining, after);
    assert_eq!(solve(&settled(draining, &after), &after), None);
}

#[test]
fn a_pinned_slot_goes_to_its_agent_and_stays_there() {
    let before = solve(&equal(0..3), &SlotTable::default()).unwrap();
    let theirs = (0..1024).filter(|slot| owner(&before, *slot).unwrap().agent_id != "a2");
    let theirs: Vec<u16> = theirs.take(10).collect();
    let mut pinned = settled(equal(0..3), &before);
    pinned.policy.pins = theirs.iter().map(|slot| (*slot, id(2))).collect();
    let after = solve(&pinned, &before).unwrap();
    // As many go back, but for the slot that does not divide.
    assert_eq!(n_moved(&before, &after), 2 * theirs.len() - 1);
    let after = settle(&pinned, after);
    let is_there = |slot: &u16| owner(&after, *slot).unwrap().agent_id == "a2";
    assert!(theirs.iter().all(is_there));
    assert!(
        counts(&after)
            .values()
            .all(|count| (341..=342).contains(count))
    );
    assert_eq!(solve(&settled(pinned, &after), &after), None);
}

#[test]
fn a_frozen_placement_moves_nothing_for_anybody() {
    let before = solve(&equal(0..3), &SlotTable::default()).unwrap();
    let mut frozen = settled(problem(1024, &[(0, 100), (7, 100)], &[1, 2]), &before);
    frozen.policy.frozen = true;
    assert_eq!(solve(&frozen, &before), None);
}

#[test]
fn a_new_address_is_no_new_owner() {
    let table = solve(&equal([1]), &SlotTable::default()).unwrap();
    let mut moved = settled(equal([1]), &table);
    let member = moved.agents.get_mut(&id(1)).unwrap();
    member.address = "http://elsewhere:1".to_owned();
    let next = solve(&moved, &table).unwrap();
    assert_eq!((next.version, &next.epochs), (2, &table.epochs));
    assert_eq!(next.owners[0].address, "http://elsewhere:1");
    assert_eq!(solve(&settled(moved, &next), &next), None);
}

/// The problem when these agents have joined so many steps ago.
fn joining(mut problem: Problem, numbers: &[u32], n_steps: u32) -> Problem {
    let step = Duration::from_secs(1);
    for number in numbers {
        let member = problem.agents.get_mut(&id(*number)).unwrap();
        member.ramp = Ramp::after(step * n_steps, step);
    }
    problem
}

fn count(table: &SlotTable, number: u32) -> usize {
    counts(table).get(id(number).as_str()).copied().unwrap_or(0)
}

#[test]
fn a_newcomer_gets_its_share_in_quarters_and_no_slot_moves_twice() {
    let before = solve(&equal([1, 2]), &SlotTable::default()).unwrap();
    let mut table = before.clone();
    for (n_steps, expected) in [86, 171, 256, 341].into_iter().enumerate() {
        let n_steps = u32::try_from(n_steps).unwrap();
        let ramped = joining(settled(equal([1, 2, 3]), &table), &[3], n_steps);
        table = solve(&ramped, &table).unwrap();
        assert_eq!(count(&table, 3), expected);
        // Nothing more before the next step is due, even when everything is at rest.
        table = settle(&ramped, table);
        assert_eq!(solve(&settled(ramped, &table), &table), None);
    }
    assert_eq!(n_moved(&before, &table), 341);
    assert_eq!(table.epochs.iter().sum::<i64>(), 1024 + 341);
}

#[test]
fn a_ramp_holds_up_neither_orphans_nor_what_somebody_leaves() {
    let first = joining(equal([1]), &[1], 0);
    let alone = solve(&first, &SlotTable::default()).unwrap();
    assert_eq!(count(&alone, 1), 1024, "of a new cluster");

    let before = solve(&equal([1, 2]), &SlotTable::default()).unwrap();
    let lost = joining(problem(1024, &[(1, 100), (3, 100)], &[2]), &[3], 0);
    let after = solve(&settled(lost, &before), &before).unwrap();
    assert_eq!((count(&after, 1), count(&after, 3)), (512, 512));

    let drained = problem(1024, &[(1, 100), (2, 0), (3, 100)], &[]);
    let drained = joining(settled(drained, &before), &[3], 0);
    let after = solve(&drained, &before).unwrap();
    assert_eq!((count(&after, 1), count(&after, 3)), (512, 512));
}

#[test]
fn newcomers_have_ramps_of_their_own_and_one_that_goes_again_leaves_the_rest_as_it_was() {
    let before = solve(&equal([1]), &SlotTable::default()).unwrap();
    let two = joining(settled(equal([1, 2, 3, 4]), &before), &[2, 3], 0);
    let two = joining(two, &[4], 1);
    let two = solve(&two, &before).unwrap();
    assert_eq!([2, 3, 4].map(|it| count(&two, it)), [64, 64, 128]);
    // Number 3 is gone for good, and others are on their way still.
    let rest = problem(1024, &[(1, 100), (2, 100), (4, 100)], &[3]);
    let rest = joining(settled(rest, &two), &[2, 4], 1);
    let next = solve(&rest, &two).unwrap();
    // What number 3 had does not wait; beyond that each has half of 341 at most.
    let kept = |number: u32| {
        let is_its =
            |table, slot| owner(table, slot).is_some_and(|it| it.agent_id == id(number).as_str());
        (0..1024)
            .filter(|it| is_its(&two, *it) && is_its(&next, *it))
            .count()
    };
    assert_eq!([2, 4].map(kept), [64, 128]);
    assert_eq!(counts(&next).get("a3"), None);
    assert!([2, 4].iter().all(|it| count(&next, *it) <= 171 + 64));
    let whole = settled(problem(1024, &[(1, 100), (2, 100), (4, 100)], &[3]), &next);
    let whole = solve(&whole, &next).unwrap();
    assert_eq!([1, 2, 4].map(|it| count(&whole, it)), [342, 341, 341]);
}

/// Fleets that grow at random, with ramps of their own: nobody has more of others' slots than its ramp allows, and in
/// the end exactly the least has moved.
#[test]
fn random_newcomers_take_no_more_than_their_ramps_allow_and_the_least_in_all() {
    for seed in 0..40 {
        let mut rng = StdRng::seed_from_u64(seed);
        let n_old = rng.random_range(1..6);
        let old: Vec<(u32, u32)> = (0..n_old)
            .map(|it| (it, rng.random_range(1..=4) * 50))
            .collect();
        let before = solve(&problem(1024, &old, &[]), &SlotTable::default()).unwrap();
        let new: Vec<u32> = (n_old..n_old + rng.random_range(1..4)).collect();
        let weights = new.iter().map(|it| (*it, rng.random_range(1..=4) * 50));
        let all: Vec<(u32, u32)> = old.iter().copied().chain(weights).collect();
        let last = settled(problem(1024, &all, &[]), &before);
        let shares = solve(&last, &before).unwrap();
        let mut table = before.clone();
        for n_steps in 0..4 {
            let ramped = joining(settled(last.clone(), &table), &new, n_steps);
            table = solve(&ramped, &table).unwrap_or(table);
            for number in &new {
                let most = count(&shares, *number) * (n_steps as usize + 1);
                let has = count(&table, *number);
                assert_eq!(has, most.div_ceil(4), "seed {seed} step {n_steps}");
            }
            table = settle(&ramped, table);
        }
        check(&last, &before, &table, &format!("seed {seed}"));
    }
}

#[test]
fn a_zone_is_known_while_its_agent_is_away() {
    let mut there = equal([1, 2]);
    there.agents.get_mut(&id(2)).unwrap().zone = Some("x".parse().unwrap());
    let table = solve(&there, &SlotTable::default()).unwrap();
    let zones = |table: &SlotTable| -> Vec<String> {
        table.owners.iter().map(|it| it.zone.clone()).collect()
    };
    assert_eq!(zones(&table), ["", "x"]);
    let mut away = settled(equal([1]), &table);
    away.agents.get_mut(&id(1)).unwrap().address = "http://elsewhere:1".to_owned();
    let next = solve(&away, &table).unwrap();
    assert_eq!(
        (zones(&next), n_moved(&table, &next)),
        (vec![String::new(), "x".to_owned()], 0)
    );
}

/// Fleets that change at random, told at random of what was left: whatever happens, the promises hold.
#[test]
fn random_fleets_move_the_least_and_share_by_weight() {
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let slot_count = *[16, 128, 1024].iter().choose(&mut rng).unwrap();
        let mut fleet: BTreeMap<u32, u32> = BTreeMap::new();
        let mut table = SlotTable::default();
        for step in 0..12 {
            let number = rng.random_range(0..8);
            match rng.random_range(0..3) {
                0 => drop(fleet.remove(&number)),
                1 => drop(fleet.insert(number, rng.random_range(1..=4) * 50)),
                _ => drop(fleet.insert(number, 100)),
            }
            let lost: Vec<_> = (0..8).filter(|it| !fleet.contains_key(it)).collect();
            let weights: Vec<_> = fleet.iter().map(|(id, weight)| (*id, *weight)).collect();
            if weights.is_empty() {
                continue;
            }
            let problem = settled(problem(slot_count, &weights, &lost), &table);
            let next = solve(&problem, &table).unwrap_or_else(|| table.clone());
            check(&problem, &table, &next, &format!("seed {seed} step {step}"));
            table = settle(&problem, next);
            assert_eq!(
                solve(&settled(problem, &table), &table),
                None,
                "seed {seed} step {step}: at rest"
            );
        }
    }
}

fn check(problem: &Problem, before: &SlotTable, after: &SlotTable, case: &str) {
    let total: u32 = problem.agents.values().map(|it| it.weight).sum();
    let (had, has) = (counts(before), counts(after));
    let mut least = 0;
    for (agent, member) in &problem.agents {
        let share = f64::from(problem.slot_count) * f64::from(member.weight) / f64::from(total);
        let has = has.get(agent.as_str()).copied().unwrap_or(0);
        assert!(
            (has as f64 - share).abs() < 1.0,
            "{case}: {agent} has {has} of {share}"
        );
        let had = had.get(agent.as_str()).copied().unwrap_or(0);
        least += has.saturating_sub(had);
        // Nobody gives and takes: what is gained is the least that can move.
        let kept = (0..problem.slot_count).filter(|slot| {
            let is_its =
                |table| owner(table, *slot).is_some_and(|it| it.agent_id == agent.as_str());
            is_its(before) && is_its(after)
        });
        assert_eq!(kept.count(), had.min(has), "{case}: {agent}");
    }
    if before.version > 0 {
        assert_eq!(n_moved(before, after), least, "{case}");
    }
    for slot in 0..problem.slot_count {
        let at = usize::from(slot);
        let moved =
            owner(before, slot).map(|it| &it.agent_id) != owner(after, slot).map(|it| &it.agent_id);
        let epoch = before.epochs.get(at).copied().unwrap_or(0);
        assert_eq!(after.epochs[at], epoch + i64::from(moved), "{case}: {slot}");
    }
}

#[test]
fn a_table_that_agents_know_a_later_one_of_is_said_anew_above_it() {
    let table = solve(&equal([1, 2]), &SlotTable::default()).unwrap();
    let mut problem = settled(equal([1, 2]), &table);
    assert_eq!(solve(&problem, &table), None);
    // The store was restored from an older copy.
    let member = problem.agents.get_mut(&id(2)).unwrap();
    member.leftovers.slot_table_version = 40;
    let next = solve(&problem, &table).unwrap();
    assert_eq!((next.version, n_moved(&table, &next)), (41, 0));
    assert_eq!(solve(&settled(problem, &next), &next), None);
}
