//! The reserve on a real disk, looked at without a keeper. What is decided is tested where it is decided.

use super::{
    super::{
        reserve::Reserve,
        room::{self, Room},
    },
    *,
};

/// What should stay free, and with it the size of the reserve.
const MIN: u64 = 16 << 20;

/// A reserve that is looked at when a test wants it, on a disk of its own making.
struct Looked {
    reserve: Reserve,
    room: Room,
    faults: Arc<Faults>,
    now: Timestamp,
    home: Home,
}

impl Looked {
    fn new() -> Self {
        let home = Home::new().with(|it| it.min_free_bytes = Some(MIN));
        fs::create_dir(&home.config.dir).unwrap();
        let faults = Arc::<Faults>::default();
        let storage = Arc::new(Faulty {
            faults: Arc::clone(&faults),
        });
        Self {
            reserve: Reserve::new(Arc::<Faulty>::clone(&storage), &home.config),
            room: Room::new(storage, &home.config),
            faults,
            now: Timestamp(1_700_000_000_000),
            home,
        }
    }

    /// Looks again, while so much would be free without the reserve.
    fn look(&mut self, free: u64) -> Result<(), Error> {
        self.faults.set(Fault::FreeButForReserve(free));
        self.now = self.now + room::INTERVAL;
        let (room, database) = (&self.room, &self.home.database);
        self.reserve.look(room, database, self.now)
    }

    fn bytes(&self) -> u64 {
        bytes(&self.home.config.dir)
    }
}

/// How large the reserve is that is there.
pub(super) fn bytes(dir: &Path) -> u64 {
    let files = (0..).map_while(|number| fs::metadata(file(dir, number)).ok());
    files.filter(fs::Metadata::is_file).map(|it| it.len()).sum()
}

fn file(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("reserve-{number}.spare"))
}

#[test]
fn a_reserve_that_was_made_or_given_up_is_seen_in_the_room_at_once() {
    let mut looked = Looked::new();
    looked.look(4 * MIN).unwrap();
    assert_eq!((looked.bytes(), looked.room.free()), (MIN, 3 * MIN));
    looked.look(MIN + 1).unwrap();
    assert_eq!((looked.bytes(), looked.room.free()), (0, MIN + 1));
}

#[test]
fn a_reserve_that_somebody_else_gave_up_is_made_again() {
    let mut looked = Looked::new();
    looked.look(4 * MIN).unwrap();
    release_reserve(&looked.home.config.dir).unwrap();
    assert_eq!(looked.bytes(), 0);
    looked.look(4 * MIN).unwrap();
    assert_eq!(looked.bytes(), MIN);
}

#[test]
fn a_reserve_that_cannot_be_made_or_given_up_ends_nothing() {
    let mut looked = Looked::new();
    let in_the_way = file(&looked.home.config.dir, 3);
    fs::create_dir(&in_the_way).unwrap();
    looked.look(4 * MIN).unwrap();
    assert!(looked.bytes() < MIN, "it cannot be made");
    // What there is of it by then is no hindrance.
    fs::remove_dir(&in_the_way).unwrap();
    looked.look(4 * MIN).unwrap();
    assert_eq!(looked.bytes(), MIN);
    fs::remove_file(&in_the_way).unwrap();
    fs::create_dir(&in_the_way).unwrap();
    looked.look(MIN).unwrap();
    assert!(in_the_way.exists(), "it cannot be given up");
}
