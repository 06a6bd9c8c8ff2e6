// SPDX-License-Identifier: Apache-2.0
#include "fs/mount_namespace.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <thread>

#include "gtest/gtest.h"

namespace imagefs {
namespace {

TEST(MountNamespaceTest, EachNamespaceHasANumber) {
  const absl::StatusOr<uint64_t> own = OwnMountNamespace();
  ASSERT_TRUE(own.ok());
  EXPECT_NE(*own, 0U);
  EXPECT_EQ(OwnMountNamespace().value_or(0), *own);
  uint64_t other = 0;
  bool entered = false;
  std::thread([&] {
    entered = unshare(CLONE_FS | CLONE_NEWNS) == 0;
    other = OwnMountNamespace().value_or(0);
  }).join();
  if (!entered) GTEST_SKIP() << "needs root";
  EXPECT_NE(other, 0U);
  EXPECT_NE(other, *own) << "of the thread, not of the process";
}

TEST(MountNamespaceTest, AMountIsFoundByItsNumberInItsNamespaceOnly) {
  const Fd root(open("/", O_PATH | O_CLOEXEC));
  const uint64_t own = OwnMountNamespace().value_or(0), mount = UniqueMountId(root);
  const absl::StatusOr<MountInfo> found = FindMountIn(own, mount);
  if (absl::IsUnimplemented(found.status())) GTEST_SKIP() << "needs Linux 6.11";
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_FALSE(found->fs_type.empty());
  const absl::StatusOr<MountKey> key = KeyOf(root);
  ASSERT_TRUE(key.ok());
  EXPECT_EQ(KeyOf(*found), *key);
  EXPECT_TRUE(absl::IsNotFound(FindMountIn(own, mount + 1'000'000'000).status()));
  EXPECT_TRUE(absl::IsNotFound(FindMountIn(own + 1'000'000'000, mount).status()));
  EXPECT_TRUE(absl::IsUnimplemented(FindMountIn(own, 0).status()));
  EXPECT_TRUE(NamespaceExists(own));
  EXPECT_FALSE(NamespaceExists(own + 1'000'000'000));
}

}  // namespace
}  // namespace imagefs
