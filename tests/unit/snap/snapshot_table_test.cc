// SPDX-License-Identifier: Apache-2.0
#include "snap/snapshot_table.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <optional>
#include <thread>

#include "base/fd.h"
#include "base/log.h"
#include "base/text.h"

namespace imagefs {
namespace {

class SnapshotTableTest : public ::testing::Test {
 protected:
  SnapshotTableTest() : dir_(StrCat(::testing::TempDir(), "/snapshots-", RandomHex(8))) {
    SetLogLevel(LogLevel::kOff);
    auto kv = KeyValueStore::Open(dir_);
    EXPECT_TRUE(kv.ok()) << kv.status();
    kv_ = *std::move(kv);
    Reopen();
  }
  ~SnapshotTableTest() override {
    table_.reset();
    kv_.reset();
    std::filesystem::remove_all(dir_);
  }
  void Reopen() {
    auto table = SnapshotTable::Open(*kv_);
    ASSERT_TRUE(table.ok()) << table.status();
    table_ = *std::move(table);
  }

  static SnapshotRecord Active() {
    SnapshotRecord record;
    record.info.created_ns = record.info.updated_ns = 1'700'000'000'123'456'789;
    record.info.labels = {{"a", "1"}, {"é", "\"quoted\"\n"}};
    record.id = 1;
    return record;
  }
  static SnapshotRecord Lazy(const std::string& ref) {
    SnapshotRecord record;
    record.info.kind = SnapshotKind::kCommitted;
    record.info.labels = {{kRefLabel, ref}};
    record.reference = "registry.test/app:1";
    record.manifest = Sha256Of("manifest");
    record.level = 2;
    return record;
  }
  absl::Status Add(const std::string& name, const std::string& parent, SnapshotRecord record) {
    if (!record.lazy()) record.id = table_->NextId();
    auto reservation = table_->Reserve(name, parent);
    if (!reservation.ok()) return reservation.status();
    return table_->Insert(*std::move(reservation), std::move(record));
  }
  void MustAdd(const std::string& name, const std::string& parent, SnapshotRecord record) {
    const absl::Status status = Add(name, parent, std::move(record));
    ASSERT_TRUE(status.ok()) << status;
  }
  void MustCommit(const std::string& key, const std::string& name) {
    const absl::Status status = table_->Commit(key, name, {}, 5);
    ASSERT_TRUE(status.ok()) << status;
  }

  const std::string dir_;
  std::unique_ptr<KeyValueStore> kv_;
  std::unique_ptr<SnapshotTable> table_;
};

TEST_F(SnapshotTableTest, RecordsComeBackAsTheyWere) {
  MustAdd("k8s.io/1/base key", "", Active());
  MustCommit("k8s.io/1/base key", "base");
  MustAdd("lazy", "base", Lazy("sha256:aa"));
  MustAdd("active", "lazy", Active());
  const std::vector<SnapshotRecord> before = table_->List();
  Reopen();
  const std::vector<SnapshotRecord> after = table_->List();
  ASSERT_EQ(before.size(), 3u);
  ASSERT_EQ(after.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(EncodeSnapshotRecord(before[i]), EncodeSnapshotRecord(after[i]));
    EXPECT_EQ(before[i].info.name, after[i].info.name);
  }
  EXPECT_EQ(after[0].info.name, "active");
  EXPECT_EQ(after[0].info.created_ns, 1'700'000'000'123'456'789);
  EXPECT_EQ(after[0].info.labels.at("é"), "\"quoted\"\n");
  EXPECT_GT(table_->NextId(), before[0].id) << "numbers are not given twice";
  const auto layer = table_->FindLayer("sha256:aa", "base");
  ASSERT_TRUE(layer.ok());
  EXPECT_EQ(layer->level, 2u);
  EXPECT_EQ(layer->manifest, Sha256Of("manifest"));
}

TEST_F(SnapshotTableTest, ParentsMustBeThereAndCommitted) {
  EXPECT_TRUE(absl::IsNotFound(table_->Reserve("a", "none").status()));
  MustAdd("a", "", Active());
  EXPECT_TRUE(absl::IsInvalidArgument(table_->Reserve("b", "a").status()));
  EXPECT_TRUE(absl::IsAlreadyExists(table_->Reserve("a", "").status()));
  MustCommit("a", "committed");
  EXPECT_TRUE(table_->Reserve("b", "committed").ok());
}

TEST_F(SnapshotTableTest, ANameIsKeptUntilItsReservationEnds) {
  MustAdd("a", "", Active());
  MustCommit("a", "parent");
  {
    const auto reservation = table_->Reserve("b", "parent");
    ASSERT_TRUE(reservation.ok());
    EXPECT_TRUE(absl::IsAlreadyExists(table_->Reserve("b", "").status()));
    EXPECT_TRUE(absl::IsNotFound(table_->Find("b").status())) << "it is not there yet";
    EXPECT_TRUE(absl::IsFailedPrecondition(table_->Remove("parent").status()));
  }
  EXPECT_TRUE(table_->Remove("parent").ok());
  EXPECT_TRUE(table_->Reserve("b", "").ok());
}

TEST_F(SnapshotTableTest, CommitReplacesNameLabelsAndTimes) {
  MustAdd("key", "", Active());
  ASSERT_TRUE(table_->Commit("key", "name", {{"new", "label"}}, 77).ok());
  EXPECT_TRUE(absl::IsNotFound(table_->Find("key").status()));
  const auto record = table_->Find("name");
  ASSERT_TRUE(record.ok());
  EXPECT_EQ(record->info.kind, SnapshotKind::kCommitted);
  EXPECT_EQ(record->info.labels, (SnapshotLabels{{"new", "label"}}));
  EXPECT_EQ(record->info.created_ns, 77);
  EXPECT_EQ(record->info.updated_ns, 77);

  EXPECT_TRUE(absl::IsNotFound(table_->Commit("key", "other", {}, 1)));
  EXPECT_TRUE(absl::IsFailedPrecondition(table_->Commit("name", "other", {}, 1)));
  SnapshotRecord view = Active();
  view.info.kind = SnapshotKind::kView;
  MustAdd("view", "name", view);
  EXPECT_TRUE(absl::IsFailedPrecondition(table_->Commit("view", "other", {}, 1)));
  MustAdd("key", "", Active());
  EXPECT_TRUE(absl::IsAlreadyExists(table_->Commit("key", "name", {}, 1)));
  EXPECT_TRUE(table_->Find("key").ok()) << "a commit that fails changes nothing";
}

TEST_F(SnapshotTableTest, ChildrenKeepTheirParents) {
  MustAdd("a", "", Active());
  MustCommit("a", "bottom");
  MustAdd("b", "bottom", Active());
  MustCommit("b", "middle");
  MustAdd("c", "middle", Active());
  const absl::Status refused = table_->Remove("middle").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused));
  EXPECT_NE(ToStd(refused.message()).find("remove"), std::string_view::npos);
  Reopen();
  EXPECT_TRUE(absl::IsFailedPrecondition(table_->Remove("bottom").status()));
  ASSERT_TRUE(table_->Remove("c").ok());
  ASSERT_TRUE(table_->Remove("middle").ok());
  ASSERT_TRUE(table_->Remove("bottom").ok());
  EXPECT_TRUE(absl::IsNotFound(table_->Remove("bottom").status()));
  EXPECT_TRUE(table_->List().empty());
  Reopen();
  EXPECT_TRUE(table_->List().empty());
}

TEST_F(SnapshotTableTest, LineageEndsAtTheFirstLazyOne) {
  MustAdd("l1", "", Lazy("sha256:1"));
  MustAdd("l2", "l1", Lazy("sha256:2"));
  MustAdd("a", "l2", Active());
  MustCommit("a", "u1");
  MustAdd("b", "u1", Active());
  MustCommit("b", "u2");
  const auto lineage = table_->Lineage("u2");
  ASSERT_TRUE(lineage.ok());
  std::vector<std::string> names;
  for (const auto& record : *lineage) names.push_back(record.info.name);
  EXPECT_EQ(names, (std::vector<std::string>{"u2", "u1", "l2"}));
}

TEST_F(SnapshotTableTest, LayersAreFoundByRefAndParent) {
  MustAdd("a", "", Active());
  MustCommit("a", "other");
  MustAdd("l1", "", Lazy("sha256:1"));
  EXPECT_TRUE(table_->FindLayer("sha256:1", "").ok());
  EXPECT_TRUE(absl::IsNotFound(table_->FindLayer("sha256:1", "other").status()));
  MustAdd("l1 again", "other", Lazy("sha256:1"));
  EXPECT_EQ(table_->FindLayer("sha256:1", "other")->info.name, "l1 again");
  EXPECT_EQ(table_->FindLayer("sha256:1", "")->info.name, "l1");
  // An ordinary snapshot with that label does not count: it was unpacked.
  SnapshotRecord unpacked = Active();
  unpacked.info.labels[kRefLabel] = "sha256:9";
  MustAdd("unpacked", "", unpacked);
  EXPECT_TRUE(absl::IsNotFound(table_->FindLayer("sha256:9", "").status()));
  ASSERT_TRUE(table_->Remove("l1 again").ok());
  EXPECT_TRUE(absl::IsNotFound(table_->FindLayer("sha256:1", "other").status()));
}

TEST_F(SnapshotTableTest, UpdateChangesLabelsAndTime) {
  MustAdd("parent", "", Lazy("sha256:1"));
  MustAdd("a", "parent", Active());
  auto info = table_->Update("parent", 99, [](SnapshotLabels& labels) {
    labels["x"] = "y";
    return absl::OkStatus();
  });
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->updated_ns, 99);
  EXPECT_EQ(info->created_ns, 0);
  EXPECT_EQ(info->labels.at("x"), "y");
  EXPECT_TRUE(table_->FindLayer("sha256:1", "").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(table_->Remove("parent").status())) << "still a parent";
  const auto refused =
      table_->Update("a", 1, [](SnapshotLabels&) { return absl::InvalidArgumentError("no"); });
  EXPECT_TRUE(absl::IsInvalidArgument(refused.status()));
  EXPECT_TRUE(absl::IsNotFound(
      table_->Update("none", 1, [](SnapshotLabels&) { return absl::OkStatus(); }).status()));
  Reopen();
  EXPECT_EQ(table_->Find("parent")->info.labels.at("x"), "y");
}

TEST_F(SnapshotTableTest, DamagedRecordsArePassedOver) {
  MustAdd("good", "", Active());
  WriteBatch batch;
  for (const char* text : {"", "{", "{\"version\":2}", "{\"version\":1,\"kind\":4}",
                           "{\"version\":1,\"kind\":2}", "{\"version\":1,\"kind\":3,\"level\":-1}",
                           "{\"version\":1,\"kind\":3,\"level\":0,\"manifest\":\"x\"}",
                           "{\"version\":1,\"kind\":2,\"id\":-5}"}) {
    EXPECT_FALSE(DecodeSnapshotRecord(text).ok()) << text;
    batch.Put(StrCat("snapshot/bad", text), text);
  }
  ASSERT_TRUE(kv_->Write(batch, false).ok());
  Reopen();
  EXPECT_EQ(table_->List().size(), 1u);
}

TEST_F(SnapshotTableTest, ALoopOfParentsIsAnError) {
  SnapshotRecord one = Active();
  one.info.kind = SnapshotKind::kCommitted;
  one.info.parent = "two";
  WriteBatch batch;
  batch.Put("snapshot/one", EncodeSnapshotRecord(one));
  one.info.parent = "one";
  one.id = 2;
  batch.Put("snapshot/two", EncodeSnapshotRecord(one));
  ASSERT_TRUE(kv_->Write(batch, false).ok());
  Reopen();
  EXPECT_EQ(table_->Lineage("one").status().code(), absl::StatusCode::kDataLoss);
}

// Many threads create, commit, label and remove children of one parent: every name exists once,
// nothing is lost and nothing is left over.
TEST_F(SnapshotTableTest, Storm) {
  MustAdd("a", "", Active());
  MustCommit("a", "parent");
  std::atomic<int> made{0}, refused{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 40; ++i) {
        // Two threads compete for each name.
        const std::string name = StrCat("n", t / 2, "-", i);
        if (!Add(name, "parent", Active()).ok()) {
          ++refused;
          continue;
        }
        ++made;
        ASSERT_TRUE(table_
                        ->Update(name, 1,
                                 [](SnapshotLabels& labels) {
                                   labels["x"] = "y";
                                   return absl::OkStatus();
                                 })
                        .ok());
        ASSERT_TRUE(table_->Commit(name, StrCat("c", t, "-", i), {}, 2).ok());
        EXPECT_TRUE(absl::IsFailedPrecondition(table_->Remove("parent").status()));
        if (i % 2 == 0) {
          ASSERT_TRUE(table_->Remove(StrCat("c", t, "-", i)).ok());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(made + refused, 160);
  EXPECT_GE(made.load(), 80);
  const std::vector<SnapshotRecord> left = table_->List();
  for (const SnapshotRecord& record : left) {
    if (record.info.name == "parent") continue;
    EXPECT_TRUE(table_->Remove(record.info.name).ok()) << record.info.name;
  }
  EXPECT_TRUE(table_->Remove("parent").ok());
  Reopen();
  EXPECT_TRUE(table_->List().empty());
}

}  // namespace
}  // namespace imagefs
