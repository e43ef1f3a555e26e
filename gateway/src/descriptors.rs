//! The descriptors of the API, read once.

use std::sync::LazyLock;

use hookfleet_proto::DESCRIPTORS;
use prost_reflect::DescriptorPool;

/// All of them, those of imports included.
pub(crate) fn pool() -> &'static DescriptorPool {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
        let pool = DescriptorPool::decode(DESCRIPTORS);
        pool.expect("the descriptors are those that the build made")
    });
    &POOL
}
