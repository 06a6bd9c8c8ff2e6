// SPDX-License-Identifier: Apache-2.0
// Shared by the tests of real mounts: a private mount namespace, a mount table over a loop,
// in-memory records, and a way to kill their daemon. Skipped with a message if the process may not
// mount.
#pragma once

#include <limits.h>
#include <stdlib.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "base/log.h"
#include "base/text.h"
#include "fs/erofs_mount.h"
#include "fs/fuse_loop.h"
#include "fs/mount_syscalls.h"
#include "fs/mount_table.h"
#include "gtest/gtest.h"
#include "tests/fakes/base/eventually.h"
#include "tests/fakes/fs/test_chain.h"

namespace imagefs {

// Why mounts are impossible on this machine, or "" if they are possible.
const std::string& WhyNot();

class FakeRecords : public MountRecords {
 public:
  absl::Status Put(const MountRecord& record) override {
    absl::MutexLock lock(&mu_);
    const bool known = records_.contains(record.directory) && !damaged_.contains(record.directory);
    if (fail_puts_ && !known) return absl::ResourceExhaustedError("disk full");
    records_[record.directory] = record;
    damaged_.erase(record.directory);
    return absl::OkStatus();
  }
  absl::Status Delete(const std::string& directory) override {
    absl::MutexLock lock(&mu_);
    records_.erase(directory);
    damaged_.erase(directory);
    return absl::OkStatus();
  }
  absl::StatusOr<Stored> List() override {
    absl::MutexLock lock(&mu_);
    Stored out;
    for (const auto& [directory, record] : records_) {
      if (damaged_.contains(directory)) {
        out.damaged.push_back(directory);
      } else {
        out.records.push_back(record);
      }
    }
    return out;
  }
  size_t size() const {
    absl::MutexLock lock(&mu_);
    return records_.size();
  }
  // Until the record is replaced.
  void Damage(const std::string& directory) {
    absl::MutexLock lock(&mu_);
    damaged_.insert(directory);
  }
  // Fails as on a full disk: only existing records can be replaced.
  void FailPuts(bool fail) {
    absl::MutexLock lock(&mu_);
    fail_puts_ = fail;
  }

 private:
  mutable absl::Mutex mu_;
  bool fail_puts_ ABSL_GUARDED_BY(mu_) = false;
  std::set<std::string> damaged_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, MountRecord> records_ ABSL_GUARDED_BY(mu_);
};

// A one-line description of each path below `path`.
std::map<std::string, std::string> Describe(const std::string& path);

// The loop devices over files below `directory`: "loop7" and the path of the file.
std::map<std::string, std::string> LoopDevicesOver(const std::string& directory);

class MountTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!WhyNot().empty()) {
      std::cerr << "*** SKIPPED, cannot mount here: " << WhyNot() << "\n";
      GTEST_SKIP() << WhyNot();
    }
    SetLogLevel(LogLevel::kOff);
    std::string path = ::testing::TempDir() + "/mount_XXXXXX";
    ASSERT_NE(mkdtemp(path.data()), nullptr);
    char resolved[PATH_MAX];
    ASSERT_NE(realpath(path.c_str(), resolved), nullptr);
    directory_ = resolved;
    ASSERT_EQ(MountsBelow(directory_), 0u);
    options_ = {directory_ + "/run", directory_ + "/root", true, true};
    options_.erofs.files = files_;
    if (const absl::Status way =
            files_ ? absl::OkStatus() : ProbeErofs(directory_, options_.erofs).status();
        !way.ok()) {
      const std::string why(way.message());
      std::cerr << "*** SKIPPED, no loop devices here: " << why << "\n";
      GTEST_SKIP() << why;
    }
    StartDaemon();
  }

  void TearDown() override {
    if (directory_.empty()) return;
    if (table_ != nullptr) {
      table_->UnmountAll();
      table_->RemoveLeftovers();
    }
    table_.reset();
    loop_.reset();
    EXPECT_EQ(MountsBelow(directory_), 0u) << "something was left behind";
    // They go away with the file systems, which end shortly after the unmount.
    EXPECT_TRUE(Eventually([this] { return LoopDevicesOver(directory_).empty(); }));
    EXPECT_TRUE(RemoveTree(directory_).ok());
  }

  void StartDaemon() {
    auto loop = FuseLoop::Create(loop_options_);
    ASSERT_TRUE(loop.ok()) << loop.status();
    loop_ = *std::move(loop);
    auto table = MountTable::Create(options_, *loop_, records_);
    ASSERT_TRUE(table.ok()) << table.status();
    table_ = *std::move(table);
  }
  // Like kill -9: nothing is unmounted.
  void KillDaemon() {
    table_.reset();
    loop_.reset();
  }

  static size_t MountsBelow(const std::string& directory) {
    auto mounts = ReadMountInfo();
    EXPECT_TRUE(mounts.ok());
    return std::count_if(mounts->begin(), mounts->end(), [&](const MountInfo& mount) {
      return mount.mount_point.starts_with(directory + "/");
    });
  }

  ChainRef Build(const TestChain& tree, std::string_view name = "image") {
    return tree.Build(StrCat(directory_, "/", name));
  }
  // A small tree with one file of each type.
  static TestChain Sample() {
    TestChain tree(2);
    tree.Dir("etc", 0755);
    tree.Dir("usr", 0711);
    tree.Dir("usr/bin");
    tree.File("etc/os-release", "NAME=test\n");
    tree.File("usr/bin/tool", PatternBytes(300'000, 1), 04755, 2);
    tree.HardLink("usr/bin/tool2", "usr/bin/tool");
    tree.Symlink("bin", "usr/bin");
    tree.Symlink("etc/link", "../etc/os-release");
    tree.Node("null", S_IFCHR | 0666, 1, 3);
    tree.Node("pipe", S_IFIFO | 0600, 0, 0);
    tree.File("empty", "");
    for (const char* path : {"etc/os-release", "usr/bin/tool", "usr"}) {
      tree.inode(path).mtime_seconds = 1'600'000'000;
      tree.inode(path).mtime_nanoseconds = 123'456'789;
    }
    tree.inode("etc/os-release").uid = 1234;
    tree.inode("etc/os-release").gid = 70'000;
    return tree;
  }

  std::string Target(std::string_view name) {
    const std::string path = StrCat(directory_, "/", name);
    EXPECT_TRUE(MakeDirs(path).ok());
    return path;
  }
  absl::Status Mount(const ChainRef& chain, const std::string& target, bool writable = false) {
    if (chain == nullptr) return absl::InternalError("no chain");
    MountRequest request;
    request.directory = target;
    request.reference = kReference;
    request.options.writable = writable;
    request.mode = mode_;
    return Mount(chain, request);
  }
  absl::Status Mount(const ChainRef& chain, MountRequest request, const Digest& manifest = {}) {
    const absl::StatusOr<CheckedMount> checked = table_->Check(std::move(request));
    return checked.ok() ? table_->Mount(chain, manifest, *checked).status() : checked.status();
  }
  // Where the private mount is from which Mount(chain, target) makes others.
  std::string PrivatePath(const ChainRef& chain) const {
    return StrCat(options_.run_dir, "/chains/", chain->chain_id.hex(),
                  mode_ == kFuseMode ? ".fuse@" : ".kernel@",
                  Sha256Of(kReference).hex().substr(0, 16));
  }
  // Why the record of that directory has no mount: "" if it has one, "none" if there is no record.
  std::string NotMounted(const std::string& target) const {
    for (const MountState& mount : table_->List()) {
      if (mount.record.directory == target) return mount.not_mounted;
    }
    return "none";
  }
  // As at the daemon's startup.
  std::vector<std::string> Recover(const MountTable::FindChain& find_chain) {
    std::vector<std::string> mounted = table_->Recover(find_chain);
    table_->RemoveLeftovers();
    return mounted;
  }
  MountTable::FindChain Finder(const ChainRef& chain) {
    return [chain](const Digest& id) -> absl::StatusOr<ChainRef> {
      if (id != chain->chain_id) return absl::NotFoundError("no such chain");
      return chain;
    };
  }

  static constexpr char kReference[] = "example.org/test:1";
  std::string directory_;
  std::string mode_ = "fuse";
  bool files_ = true;  // set before SetUp, like options_.erofs.files
  FuseLoop::Options loop_options_;
  MountTable::Options options_;
  FakeRecords records_;
  std::unique_ptr<FuseLoop> loop_;
  std::unique_ptr<MountTable> table_;
};

// For tests that apply to every presentation: kFuseMode, kKernelMode, or kernel mode through loop
// devices.
inline constexpr std::string_view kLoopDevices = "loop_devices";
class BothModesTest : public MountTest, public testing::WithParamInterface<std::string_view> {
 protected:
  BothModesTest() {
    files_ = GetParam() != kLoopDevices;
    mode_ = files_ ? GetParam() : kKernelMode;
  }
};

}  // namespace imagefs
