// SPDX-License-Identifier: Apache-2.0
#include "cache/image_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/text.h"
#include "tests/fakes/base/eventually.h"
#include "tests/fakes/cache/damage.h"
#include "tests/fakes/cache/fake_source.h"
#include "tests/fakes/cache/lazy_blob.h"

namespace imagefs {
namespace {

class ImageStoreTest : public ::testing::Test {
 protected:
  ImageStoreTest() : sources_(repository_) {
    root_ = StrCat(::testing::TempDir(), "/store-", RandomHex(8));
    OpenStore();
    big_ = TarOf({{"big", std::string(300'000, 'b')}});
    small_ = TarOf({{"etc/small", "hello"}});
    repository_.AddImage("latest", {big_, small_});
    big_blob_ = repository_.LayerBlob(0).digest;
    small_blob_ = repository_.LayerBlob(1).digest;
  }
  ~ImageStoreTest() override {
    store_.reset();
    std::filesystem::remove_all(root_);
  }

  void OpenStore() {
    store_.reset();
    ImageStore::Options options{root_};
    options.verify = verify_;
    absl::StatusOr<std::unique_ptr<ImageStore>> store =
        ImageStore::Open(std::move(options), sources_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  static ResolveRequest Request(const std::string& tag, const std::string& user = "") {
    ResolveRequest request;
    request.reference = *Reference::Parse(StrCat("registry.test/img:", tag));
    request.platform = Platform::Host();
    request.access.credential.username = user;
    return request;
  }

  absl::StatusOr<ImageStore::Resolved> Resolve(ResolveRequest request) {
    absl::Notification ended;
    absl::StatusOr<ImageStore::Resolved> result;
    store_->Resolve(std::move(request), [&](absl::StatusOr<ImageStore::Resolved> resolved) {
      result = std::move(resolved);
      ended.Notify();
    });
    ended.WaitForNotification();
    return result;
  }

  // One caller that waits for a chain.
  struct Caller {
    absl::Notification ended;
    absl::StatusOr<ChainRef> chain;
    FlightTicket ticket;
  };
  std::unique_ptr<Caller> Ensure(const std::string& tag, const std::string& user = "") {
    absl::StatusOr<ImageStore::Resolved> resolved = Resolve(Request(tag, user));
    EXPECT_TRUE(resolved.ok()) << resolved.status();
    auto caller = std::make_unique<Caller>();
    caller->ticket = store_->EnsureChain(resolved->image, resolved->source, IndexTrust::None(),
                                         Priority::kForeground,
                                         [raw = caller.get()](absl::StatusOr<ChainRef> chain) {
                                           raw->chain = std::move(chain);
                                           raw->ended.Notify();
                                         });
    return caller;
  }
  absl::StatusOr<ChainRef> Get(const std::string& tag) {
    std::unique_ptr<Caller> caller = Ensure(tag);
    caller->ended.WaitForNotification();
    return std::move(caller->chain);
  }
  absl::Status Durable(const ChainRef& chain) {
    absl::Notification ended;
    absl::Status result;
    store_->WaitDurable(chain, [&](absl::Status status) {
      result = status;
      ended.Notify();
    });
    ended.WaitForNotification();
    return result;
  }

  static std::string Content(const Chain& chain, const std::vector<std::string>& path) {
    Nid nid = chain.index->root();
    for (const std::string& part : path) {
      absl::StatusOr<std::optional<Nid>> next = chain.index->Lookup(nid, part);
      if (!next.ok() || !next->has_value()) return StrCat("<no ", part, ">");
      nid = **next;
    }
    const ErofsImage::Stat stat = *chain.index->GetStat(nid);
    std::string content(stat.size, '?');
    for (uint64_t at = 0; at < stat.size;) {
      const Extent extent = *chain.index->Map(nid, at);
      EXPECT_GT(extent.length, 0u);
      EXPECT_EQ(*PreadFull(chain.layers[extent.device - 1u]->data.get(),
                           absl::MakeSpan(content).subspan(at, extent.length), extent.data_offset),
                extent.length);
      at += extent.length;
    }
    return content;
  }

  uint64_t Counter(std::string_view name) const {
    for (const auto& [key, value] : store_->Counters()) {
      if (key == name) return value;
    }
    ADD_FAILURE() << "no counter " << name;
    return 0;
  }
  FlightReport Flight(std::string_view name) const {
    for (const FlightReport& report : store_->Flights()) {
      if (report.name == name) return report;
    }
    ADD_FAILURE() << "no flights " << name;
    return {};
  }
  // A cancelled transfer may still be unwinding on the source's thread.
  void ExpectNothingFlies() const {
    std::string running;
    EXPECT_TRUE(Eventually([&] {
      running.clear();
      for (const FlightReport& report : store_->Flights()) {
        if (!report.running.empty()) running += report.name + " ";
      }
      return running.empty();
    })) << running;
  }
  // Data in a file left by an earlier process is trusted up to the last whole block before its end.
  static void ExpectResumedAt(const ByteRange& read, uint64_t offset) {
    EXPECT_LE(read.begin, offset);
    EXPECT_GT(read.begin + 2 * 4096, offset);
  }
  size_t FilesIn(const std::string& sub) const {
    size_t n = 0;
    for ([[maybe_unused]] const auto& entry :
         std::filesystem::directory_iterator(StrCat(root_, "/", sub))) {
      ++n;
    }
    return n;
  }

  FakeRepository repository_;
  FakeSourceFactory sources_;
  std::string root_;
  std::optional<ImageVerifier::Options> verify_;  // for the next OpenStore
  std::string big_, small_;
  Digest big_blob_, small_blob_;
  std::unique_ptr<ImageStore> store_;
};

TEST_F(ImageStoreTest, MakesTheChainOfAnImage) {
  const absl::StatusOr<ChainRef> chain = Get("latest");
  ASSERT_TRUE(chain.ok()) << chain.status();
  EXPECT_EQ(Content(**chain, {"big"}), std::string(300'000, 'b'));
  EXPECT_EQ(Content(**chain, {"etc", "small"}), "hello");
  EXPECT_EQ(FilesIn("blobs"), 0u);
  ExpectNothingFlies();
  ASSERT_TRUE(Durable(*chain).ok());
  for (const LayerInfo& layer : store_->ListLayers()) {
    EXPECT_EQ(layer.state, LayerState::kComplete);
  }
  ASSERT_EQ(store_->ListImages(false)->size(), 1u);
  EXPECT_EQ(store_->ListImages(false)->front().reference, "registry.test/img:latest");
}

TEST_F(ImageStoreTest, TheLongestLayerIsBegunFirst) {
  FakeRepository one_at_a_time(1);
  FakeSourceFactory sources(one_at_a_time);
  one_at_a_time.AddImage("latest", {small_, big_, TarOf({{"middle", std::string(100'000, 'm')}})});
  const Digest big = one_at_a_time.LayerBlob(1).digest, middle = one_at_a_time.LayerBlob(2).digest;
  one_at_a_time.HoldAt(big, 0);
  one_at_a_time.HoldAt(middle, 0);
  ImageStore::Options options{StrCat(root_, "/order")};
  options.layer_workers = 1;
  absl::StatusOr<std::unique_ptr<ImageStore>> store = ImageStore::Open(std::move(options), sources);
  ASSERT_TRUE(store.ok()) << store.status();
  store_ = *std::move(store);
  std::unique_ptr<Caller> caller = Ensure("latest");
  EXPECT_TRUE(Eventually([&] { return one_at_a_time.Standing(big) == 1; }));
  one_at_a_time.Release(big);
  EXPECT_TRUE(Eventually([&] { return one_at_a_time.Standing(middle) == 1; }));
  EXPECT_TRUE(one_at_a_time.Reads(one_at_a_time.LayerBlob(0).digest).empty());
  one_at_a_time.Release(middle);
  caller->ended.WaitForNotification();
  EXPECT_TRUE(caller->chain.ok()) << caller->chain.status();
  caller.reset();
  store_.reset();
}

TEST_F(ImageStoreTest, ManyCallersCostOneFetch) {
  repository_.HoldAt(big_blob_, 100'000);
  std::vector<std::unique_ptr<Caller>> callers;
  for (int i = 0; i < 20; ++i) callers.push_back(Ensure("latest"));
  repository_.AwaitHeld(big_blob_);
  EXPECT_EQ(store_->Progress({big_blob_, big_blob_})->callers, 20u);
  repository_.Release(big_blob_);
  for (auto& caller : callers) {
    caller->ended.WaitForNotification();
    ASSERT_TRUE(caller->chain.ok()) << caller->chain.status();
    EXPECT_EQ(*caller->chain, *callers[0]->chain);
  }
  EXPECT_EQ(repository_.Reads(big_blob_), (std::vector<ByteRange>{{0, big_.size()}}));
  EXPECT_EQ(repository_.Reads(small_blob_), (std::vector<ByteRange>{{0, small_.size()}}));
  EXPECT_EQ(Counter("chains_merged"), 1u);
  EXPECT_EQ(Flight("chain").counters.leaders, 1u);
  EXPECT_EQ(Flight("chain").counters.joins, 19u);
}

TEST_F(ImageStoreTest, TheFirstCallerLeavingDisturbsNobody) {
  repository_.HoldAt(big_blob_, 100'000);
  std::unique_ptr<Caller> first = Ensure("latest");
  std::unique_ptr<Caller> second = Ensure("latest");
  repository_.AwaitHeld(big_blob_);
  first->ticket.Leave();
  first->ended.WaitForNotification();
  EXPECT_TRUE(absl::IsCancelled(first->chain.status()));
  repository_.Release(big_blob_);
  second->ended.WaitForNotification();
  ASSERT_TRUE(second->chain.ok()) << second->chain.status();
  EXPECT_EQ(repository_.Reads(big_blob_).size(), 1u);
}

TEST_F(ImageStoreTest, TheLastCallerLeavingStopsTheWorkAndTheNextResumesIt) {
  repository_.HoldAt(big_blob_, 100'000);
  std::unique_ptr<Caller> only = Ensure("latest");
  repository_.AwaitHeld(big_blob_);
  only->ticket.Leave();
  only->ended.WaitForNotification();
  ASSERT_TRUE(Eventually([&] { return Flight("blob").counters.active == 0; }));
  repository_.Release(big_blob_);
  const absl::StatusOr<ChainRef> chain = Get("latest");
  ASSERT_TRUE(chain.ok()) << chain.status();
  EXPECT_EQ(Content(**chain, {"big"}), std::string(300'000, 'b'));
  const std::vector<ByteRange> reads = repository_.Reads(big_blob_);
  ASSERT_EQ(reads.size(), 2u);
  ExpectResumedAt(reads[1], 100'000);
  EXPECT_EQ(FilesIn("blobs"), 0u);
  ExpectNothingFlies();
}

TEST_F(ImageStoreTest, AFailureOfOnesCredentialsIsOnesOwn) {
  // The caller with rejected credentials leads the flight; the other caller has good ones.
  repository_.HoldAt(small_blob_, 0);
  std::unique_ptr<Caller> good = Ensure("latest", "good");
  repository_.AwaitHeld(small_blob_);
  repository_.Deny("bad");
  std::unique_ptr<Caller> bad = Ensure("latest", "bad");
  repository_.Release(small_blob_);
  good->ended.WaitForNotification();
  bad->ended.WaitForNotification();
  EXPECT_TRUE(good->chain.ok()) << good->chain.status();
  // It joined flights that needed no requests of its own, but may not have their result.
  EXPECT_FALSE(bad->chain.ok());
}

TEST_F(ImageStoreTest, TheFlightGoesOnWithAnothersCredentials) {
  repository_.FailAt(big_blob_, 50'000, absl::PermissionDeniedError("expired"), 1);
  repository_.HoldAt(big_blob_, 50'000);
  std::unique_ptr<Caller> first = Ensure("latest", "first");
  repository_.AwaitHeld(big_blob_);
  std::unique_ptr<Caller> second = Ensure("latest", "second");
  repository_.Release(big_blob_);
  first->ended.WaitForNotification();
  second->ended.WaitForNotification();
  EXPECT_TRUE(absl::IsPermissionDenied(first->chain.status())) << first->chain.status();
  ASSERT_TRUE(second->chain.ok()) << second->chain.status();
  EXPECT_EQ(Flight("layer").counters.handovers, 1u);
  // What the first caller's transfer had received was not requested again.
  ExpectResumedAt(repository_.Reads(big_blob_).at(1), 50'000);
}

TEST_F(ImageStoreTest, AWrongByteIsFetchedAgain) {
  repository_.CorruptAt(big_blob_, 70'000, 1);
  const absl::StatusOr<ChainRef> chain = Get("latest");
  ASSERT_TRUE(chain.ok()) << chain.status();
  EXPECT_EQ(Content(**chain, {"big"}), std::string(300'000, 'b'));
  EXPECT_EQ(Counter("layers_refetched"), 1u);
}

TEST_F(ImageStoreTest, LastingWrongBytesFailAndLeaveNothing) {
  // A single layer, because what another layer has received by then is kept for the next caller.
  repository_.AddImage("wrong", {big_});
  repository_.CorruptAt(big_blob_, 70'000, 100);
  const absl::StatusOr<ChainRef> chain = Get("wrong");
  EXPECT_TRUE(absl::IsDataLoss(chain.status())) << chain.status();
  EXPECT_EQ(FilesIn("blobs"), 0u);
  EXPECT_EQ(FilesIn("chains"), 0u);
  EXPECT_TRUE(store_->ListImages(false)->empty());
  EXPECT_EQ(store_->StateOf({big_blob_, big_blob_}), LayerState::kAbsent);
  ExpectNothingFlies();
}

TEST_F(ImageStoreTest, ACutTransferIsResumedByTheNextCaller) {
  repository_.FailAt(big_blob_, 120'000, absl::UnavailableError("cut"), 1);
  EXPECT_TRUE(absl::IsUnavailable(Get("latest").status()));
  ASSERT_TRUE(Get("latest").ok());
  ExpectResumedAt(repository_.Reads(big_blob_).at(1), 120'000);
}

TEST_F(ImageStoreTest, ImagesShareLayers) {
  const std::string other = TarOf({{"other", "o"}});
  repository_.HoldAt(big_blob_, 10);
  repository_.AddImage("second", {big_, other});
  std::unique_ptr<Caller> one = Ensure("latest");
  std::unique_ptr<Caller> two = Ensure("second");
  repository_.AwaitHeld(big_blob_);
  repository_.Release(big_blob_);
  one->ended.WaitForNotification();
  two->ended.WaitForNotification();
  ASSERT_TRUE(one->chain.ok() && two->chain.ok());
  EXPECT_EQ(repository_.Reads(big_blob_).size(), 1u);
  EXPECT_EQ((*one->chain)->layers[0], (*two->chain)->layers[0]);
}

TEST_F(ImageStoreTest, ReopenedStoreHasItAllWithoutASource) {
  ASSERT_TRUE(Durable(*Get("latest")).ok());
  OpenStore();
  ResolveRequest request = Request("latest");
  request.policy = PullPolicy::kNever;
  const absl::StatusOr<ImageStore::Resolved> resolved = Resolve(std::move(request));
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  const absl::StatusOr<ChainRef> chain = store_->FindChain(resolved->image->chain_id());
  ASSERT_TRUE(chain.ok()) << chain.status();
  EXPECT_EQ(Content(**chain, {"etc", "small"}), "hello");
  EXPECT_EQ(repository_.Reads(big_blob_).size(), 1u);
}

TEST_F(ImageStoreTest, ACheckEndsWhenNobodyWaitsForIt) {
  ASSERT_TRUE(Durable(*Get("latest")).ok());
  const auto all = store_->Check({}, false, [](size_t) { return true; });
  ASSERT_TRUE(all.ok()) << all.status();
  for (const CheckedLayer& layer : all->layers) EXPECT_EQ(layer.state, "right");
  EXPECT_TRUE(all->findings.empty());
  int asked = 0;
  const auto none = store_->Check({}, false, [&asked](size_t) { return ++asked < 1; });
  EXPECT_TRUE(absl::IsCancelled(none.status())) << none.status();
  EXPECT_EQ(asked, 1);
}

TEST_F(ImageStoreTest, KnownReferencesAreNotAskedForAgain) {
  ASSERT_TRUE(Get("latest").ok());
  const int before = repository_.manifest_reads();
  EXPECT_TRUE(Resolve(Request("latest"))->from_store);
  EXPECT_EQ(repository_.manifest_reads(), before);
  ResolveRequest always = Request("latest");
  always.policy = PullPolicy::kAlways;
  EXPECT_FALSE(Resolve(std::move(always))->from_store);
  EXPECT_EQ(repository_.manifest_reads(), before + 1);
}

TEST_F(ImageStoreTest, WhatIsBeingBroughtIsNotResolvedAgain) {
  repository_.HoldAt(big_blob_, 100'000);
  std::unique_ptr<Caller> first = Ensure("latest");
  repository_.AwaitHeld(big_blob_);
  const int before = repository_.manifest_reads();
  EXPECT_FALSE(Resolve(Request("latest"))->from_store);
  EXPECT_EQ(repository_.manifest_reads(), before);
  ResolveRequest other = Request("latest");
  other.access.credential.username = "other";
  EXPECT_FALSE(Resolve(std::move(other))->from_store);
  EXPECT_EQ(repository_.manifest_reads(), before + 1) << "another's credentials are asked with";
  repository_.Release(big_blob_);
  first->ended.WaitForNotification();
}

TEST_F(ImageStoreTest, VerifiersAreAskedAboutWhatIsFoundAndWhatWasThere) {
  ASSERT_TRUE(Get("latest").ok());  // before any were configured
  const std::string machine = StrCat("linux/", Platform::Host().architecture);
  const Digest manifest = repository_.AddImage("one", {small_});
  const Digest index = repository_.AddIndex("many", {{"one", machine}});
  const std::string bin = root_ + "-bin", calls = root_ + "-calls";
  std::filesystem::create_directories(bin);
  ASSERT_EQ(chmod(bin.c_str(), 0755), 0);
  ASSERT_TRUE(WriteFileDurably(bin + "/program",
                               StrCat("#!/bin/sh\necho $2 $4 >>", calls, "\ncat >>", calls,
                                      "\ncase $2 in "
                                      "*:many | *:gone) ;; *) echo no; exit 1; esac\n"))
                  .ok());
  ASSERT_EQ(chmod((bin + "/program").c_str(), 0755), 0);
  verify_ = ImageVerifier::Options{bin, absl::Seconds(60)};
  OpenStore();
  const auto asked = [&] {
    const std::string text = ReadFile(calls, 1 << 20).value_or("");
    std::filesystem::remove(calls);
    return text;
  };
  // A record of the store, a manifest of the registry: denied.
  for (const PullPolicy policy : {PullPolicy::kMissing, PullPolicy::kNever, PullPolicy::kAlways}) {
    ResolveRequest request = Request("latest");
    request.policy = policy;
    const absl::Status denied = Resolve(std::move(request)).status();
    EXPECT_TRUE(IsImageDenied(denied)) << denied;
    EXPECT_TRUE(asked().starts_with("registry.test/img:latest sha256:"));
  }
  // What a tag names is an index: with its type and size, also for a manifest named by digest.
  const auto many = Resolve(Request("many"));
  ASSERT_TRUE(many.ok()) << many.status();
  EXPECT_EQ(many->image->manifest_digest, manifest);
  const std::string question = StrCat(
      "registry.test/img:many ", index.ToString(), "\n{\"mediaType\":\"", many->image->index_type,
      "\",\"digest\":\"", index.ToString(), "\",\"size\":", many->image->index_bytes, "}");
  EXPECT_EQ(asked(), question);
  EXPECT_GT(many->image->index_bytes, 100U);
  ASSERT_TRUE(Get("many").ok());
  EXPECT_EQ(asked(), "");
  OpenStore();
  ResolveRequest pinned = Request("many");
  pinned.reference.digest = manifest;
  bool told = false;
  pinned.verifying = [&] { told = true; };
  const auto by_digest = Resolve(pinned);
  ASSERT_TRUE(by_digest.ok()) << by_digest.status();
  EXPECT_EQ(by_digest->image->index_digest, index);
  EXPECT_TRUE(told);
  EXPECT_EQ(asked(), question);
  // From the record, by the next process.
  OpenStore();
  ASSERT_TRUE(Resolve(Request("many")).ok());
  EXPECT_EQ(asked(), question);
  EXPECT_EQ(Counter("verify_allowed"), 1U);
  // A tag that names something else, or nothing any more, says nothing about the manifest.
  for (const char* tag : {"latest", "gone"}) {
    ResolveRequest moved = Request(tag);
    moved.reference.digest = manifest;
    EXPECT_EQ(Resolve(std::move(moved)).ok(), tag == std::string_view("gone"));
    EXPECT_TRUE(asked().starts_with(StrCat("registry.test/img:", tag, " ", manifest.ToString())));
  }
  store_.reset();
  std::filesystem::remove_all(bin);
}

TEST_F(ImageStoreTest, NestedIndexesAreChosenFromTogether) {
  const std::string machine = StrCat("linux/", Platform::Host().architecture);
  const Digest old = repository_.AddImage("old", {big_});
  const Digest fresh = repository_.AddImage("fresh", {small_});
  repository_.AddIndex("first", {{"latest", "windows/any"}, {"old", machine + "/v8"}});
  repository_.AddIndex("second", {{"fresh", machine + "/v9"}});
  const Digest top = repository_.AddIndex("top", {{"first", ""}, {"second", ""}});
  const auto resolve = [&](const std::string& tag, const std::string& platform) {
    ResolveRequest request = Request(tag);
    request.platform = *Platform::Parse(platform);
    return Resolve(std::move(request));
  };
  const absl::StatusOr<ImageStore::Resolved> exact = resolve("top", machine + "/v9");
  ASSERT_TRUE(exact.ok()) << exact.status();
  EXPECT_EQ(exact->image->manifest_digest, fresh) << "not the lesser variant of the first index";
  EXPECT_EQ(exact->image->index_digest, top);
  EXPECT_EQ(resolve("top", machine + "/v8.5")->image->manifest_digest, old);
  const std::string error = std::string(resolve("top", "plan9/any").status().message());
  EXPECT_NE(error.find(StrCat(machine, "/v8, ", machine, "/v9, windows/any")), std::string::npos)
      << error;

  // An entry that names its platform is chosen without reading the others.
  repository_.AddIndex("labelled", {{"first", ""}, {"second", ""}, {"old", machine + "/v8"}});
  const int before = repository_.manifest_reads();
  EXPECT_EQ(resolve("labelled", machine + "/v9")->image->manifest_digest, old);
  EXPECT_EQ(repository_.manifest_reads(), before + 2);
}

TEST_F(ImageStoreTest, NestedIndexesAreBounded) {
  const std::string host = Platform::Host().ToString();
  repository_.AddIndex("depth0", {{"latest", host}});
  for (int depth = 1; depth <= 3; ++depth) {
    repository_.AddIndex(StrCat("depth", depth), {{StrCat("depth", depth - 1), ""}});
  }
  EXPECT_TRUE(Resolve(Request("depth2")).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(Resolve(Request("depth3")).status()));

  std::vector<FakeRepository::IndexEntry> many;
  for (int i = 0; i < 17; ++i) {
    many.push_back({StrCat("many", i), ""});
    repository_.AddIndex(many.back().tag, {{"latest", host}, {"latest", StrCat("plan9/p", i)}});
  }
  repository_.AddIndex("17", many);
  EXPECT_TRUE(absl::IsInvalidArgument(Resolve(Request("17")).status()));
  many.pop_back();
  repository_.AddIndex("16", many);
  EXPECT_TRUE(Resolve(Request("16")).ok());
}

TEST_F(ImageStoreTest, NeverPullRefusesTheUnknown) {
  ResolveRequest request = Request("unknown");
  request.policy = PullPolicy::kNever;
  EXPECT_TRUE(absl::IsNotFound(Resolve(std::move(request)).status()));
}

TEST_F(ImageStoreTest, WrittenLayersOfAnotherBootAreDropped) {
  ASSERT_TRUE(Durable(*Get("latest")).ok());
  const std::string key = StrCat("layer/", big_blob_.hex());
  std::string record = store_->kv().Get(key)->value();
  record.replace(record.find("complete"), 8, "written");
  const size_t boot = record.find("\"boot\":\"") + 8;
  record.replace(boot, 8, "00000000");
  WriteBatch batch;
  batch.Put(key, record);
  ASSERT_TRUE(store_->kv().Write(batch, true).ok());
  OpenStore();
  EXPECT_EQ(store_->StateOf({big_blob_, big_blob_}), LayerState::kAbsent);
  EXPECT_EQ(store_->StateOf({small_blob_, small_blob_}), LayerState::kComplete);
  EXPECT_EQ(FilesIn("layers"), 1u);
  ASSERT_TRUE(Get("latest").ok());
  EXPECT_EQ(repository_.Reads(big_blob_).size(), 2u);
  EXPECT_EQ(repository_.Reads(small_blob_).size(), 1u);
}

// Makes syncs fail for files below a directory with this name; "" = for none.
class FailingSyncs {
 public:
  static void Set(const std::string& part) {
    absl::MutexLock lock(&mu_);
    part_ = part;
  }
  static bool Has(const std::string& path) {
    absl::MutexLock lock(&mu_);
    return !part_.empty() && path.find(part_) != std::string::npos;
  }

 private:
  static inline absl::Mutex mu_;
  static inline std::string part_ ABSL_GUARDED_BY(mu_);
};

int FailingFsync(int fd) {
  const std::string link = StrCat("/proc/self/fd/", fd);
  std::error_code error;
  const std::string path = std::filesystem::read_symlink(link, error).string();
  if (!FailingSyncs::Has(path)) return fsync(fd);
  errno = EIO;
  return -1;
}

class SyncFailureTest : public ImageStoreTest {
 protected:
  SyncFailureTest() {
    repository_.AddImage("one", {big_});
    repository_.AddImage("other", {small_});
    FailingSyncs::Set(big_blob_.hex());
    ReplaceFsyncForTesting(FailingFsync);
  }
  ~SyncFailureTest() override {
    store_.reset();
    FailingSyncs::Set("");
    ReplaceFsyncForTesting(nullptr);
  }
  std::string Data() const { return StrCat(root_, "/layers/", big_blob_.hex(), "/data"); }
};

TEST_F(SyncFailureTest, OneLayerFailsWhoWaitsForItOnly) {
  const absl::StatusOr<ChainRef> bad = Get("one"), good = Get("other");
  ASSERT_TRUE(bad.ok() && good.ok());
  const absl::Status failed = Durable(*bad);
  EXPECT_NE(failed.message().find("Input/output error"), std::string::npos) << failed;
  EXPECT_TRUE(Durable(*good).ok());
  EXPECT_EQ(store_->StateOf({big_blob_, big_blob_}), LayerState::kWritten);
  // The failure is over: the next caller succeeds, after the bytes were rewritten.
  FailingSyncs::Set("");
  const struct stat before = *StatPath(Data());
  EXPECT_TRUE(Durable(*bad).ok());
  EXPECT_EQ(store_->StateOf({big_blob_, big_blob_}), LayerState::kComplete);
  const struct stat after = *StatPath(Data());
  EXPECT_NE(std::pair(before.st_mtim.tv_sec, before.st_mtim.tv_nsec),
            std::pair(after.st_mtim.tv_sec, after.st_mtim.tv_nsec));
  EXPECT_EQ(repository_.Reads(big_blob_).size(), 1u);
}

TEST_F(SyncFailureTest, WhatTheDiskLostIsFetchedAgain) {
  absl::StatusOr<ChainRef> chain = Get("one");
  ASSERT_TRUE(chain.ok());
  ASSERT_FALSE(Durable(*chain).ok());
  FailingSyncs::Set("");
  {
    const absl::StatusOr<Fd> fd = OpenFile(Data(), O_WRONLY);
    ASSERT_TRUE(fd.ok() && PwriteFull(fd->get(), std::string(4096, '\0'), 8192).ok());
  }
  // Detected by the sync or, since the layer is open, by the watch. If there was time for a span
  // table, lost data is fetched again into the existing file; otherwise the layer is absent for a
  // while.
  const absl::Status lost = Durable(*chain);
  EXPECT_TRUE(lost.ok() || absl::IsDataLoss(lost) || absl::IsNotFound(lost)) << lost;
  chain = absl::CancelledError("let go");
  chain = Get("one");
  ASSERT_TRUE(chain.ok()) << chain.status();
  EXPECT_TRUE(Durable(*chain).ok());
  EXPECT_EQ(Content(**chain, {"big"}), std::string(300'000, 'b'));
  EXPECT_EQ(repository_.Reads(big_blob_).size(), 2u);
}

TEST_F(SyncFailureTest, ANewProcessTrustsNoSyncOfTheOneBefore) {
  ASSERT_TRUE(Get("one").ok());
  const struct stat before = *StatPath(Data());
  OpenStore();  // the previous store could not sync it
  EXPECT_EQ(store_->StateOf({big_blob_, big_blob_}), LayerState::kWritten);
  FailingSyncs::Set("");
  const absl::StatusOr<ChainRef> chain = Get("one");
  ASSERT_TRUE(chain.ok());
  // The first wait may get the result of an attempt that began before the failure was over.
  ASSERT_TRUE(Durable(*chain).ok() || Durable(*chain).ok());
  EXPECT_NE(before.st_mtim.tv_nsec, StatPath(Data())->st_mtim.tv_nsec);
  EXPECT_EQ(repository_.Reads(big_blob_).size(), 1u);
}

// The files of a store, and external changes to them.
class DamageTest : public ImageStoreTest {
 protected:
  std::string File(const std::string& name) const {
    return StrCat(root_, "/layers/", big_blob_.hex(), "/", name);
  }
  static void Overwrite(const std::string& path, uint64_t offset, const std::string& bytes) {
    const absl::StatusOr<Fd> fd = OpenFile(path, O_WRONLY);
    ASSERT_TRUE(fd.ok() && PwriteFull(fd->get(), bytes, offset).ok());
  }
  void ChangeRecord(const std::string& from, const std::string& to) {
    const std::string key = StrCat("layer/", big_blob_.hex());
    std::string record = store_->kv().Get(key)->value();
    const size_t at = record.find(from);
    ASSERT_NE(at, std::string::npos) << record;
    record.replace(at, from.size(), to);
    WriteBatch batch;
    batch.Put(key, record);
    ASSERT_TRUE(store_->kv().Write(batch, true).ok());
  }
  // Reads from the layer, via its guard if necessary.
  std::string Read(const ChainRef& chain) {
    const LayerRef& layer = chain->layers[0];
    if (layer->readable()) return Content(*chain, {"big"});
    absl::Notification ended;
    absl::Status status;
    layer->keeper()->Ensure({0, layer->data_bytes}, 0, CancelToken(),
                            [&](const absl::StatusOr<ReadPin>& pin) {
                              status = pin.status();
                              ended.Notify();
                            });
    ended.WaitForNotification();
    return status.ok() ? Content(*chain, {"big"}) : std::string(status.message());
  }
  const std::string right_ = std::string(300'000, 'b');
};

TEST_F(DamageTest, WhatWasWrittenToIsReadBeforeItIsShown) {
  ASSERT_TRUE(Durable(*Get("latest")).ok());
  // The same bytes with another time: they are right, and trusted from then on.
  Overwrite(File("data"), 100'000, "b");
  EXPECT_EQ(Content(**Get("latest"), {"big"}), right_);
  OpenStore();
  EXPECT_EQ(Content(**Get("latest"), {"big"}), right_);
  EXPECT_EQ(Counter("layers_damaged"), 0u);
  for (const char* name : {"data", "index"}) {
    store_.reset();
    Overwrite(File(name), 2048, "x");
    OpenStore();
    const absl::StatusOr<ChainRef> chain = Get("latest");
    ASSERT_TRUE(chain.ok()) << chain.status();
    EXPECT_EQ(Read(*chain), right_) << name;
    ASSERT_TRUE(Durable(*chain).ok());
  }
}

TEST_F(DamageTest, AChainIsMadeAgain) {
  ASSERT_TRUE(Durable(*Get("latest")).ok());
  store_.reset();
  for (const auto& entry : std::filesystem::directory_iterator(root_ + "/chains")) {
    Overwrite(entry.path(), std::filesystem::file_size(entry.path()) - 5, "x");
  }
  OpenStore();
  EXPECT_EQ(Content(**Get("latest"), {"big"}), right_);
  EXPECT_EQ(repository_.Reads(big_blob_).size(), 1u);
}

TEST_F(DamageTest, LayersOfAnotherBootAreCheckedWhereTheyAreRead) {
  ASSERT_TRUE(Durable(*Get("latest")).ok());
  const size_t boot = store_->kv().Get(StrCat("layer/", big_blob_.hex()))->value().find("boot");
  ChangeRecord(store_->kv().Get(StrCat("layer/", big_blob_.hex()))->value().substr(boot, 15),
               "boot\":\"00000000");
  OpenStore();
  {
    const absl::StatusOr<ChainRef> chain = Get("latest");
    ASSERT_TRUE(chain.ok());
    EXPECT_TRUE((*chain)->complete());
    EXPECT_FALSE((*chain)->readable());
    EXPECT_EQ(Read(*chain), right_);
  }
  EXPECT_EQ(repository_.Reads(big_blob_).size(), 1u);
}

TEST_F(DamageTest, AWriteWhileItIsShownIsMended) {
  const absl::StatusOr<ChainRef> chain = Get("latest");
  ASSERT_TRUE(Durable(*chain).ok());
  EXPECT_TRUE((*chain)->readable());
  Overwrite(File("data"), 200'000, std::string(1000, 'x'));
  EXPECT_TRUE(Eventually([&] { return Counter("layers_damaged") == 1; }));
  // There may be no span table yet; then the layer is lost for its users, and fetched for others.
  const std::string seen = Read(*chain);
  EXPECT_TRUE(seen == right_ || seen.find("damaged") != std::string::npos) << seen.substr(0, 200);
  const absl::StatusOr<ChainRef> again = Get("latest");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(Read(*again), right_);
}

TEST_F(DamageTest, RecordsWithoutSumsAreRead) {
  ASSERT_TRUE(Durable(*Get("latest")).ok());
  ChangeRecord("data_digest", "nothing");
  ChangeRecord("index_sum", "nothing2");
  OpenStore();
  EXPECT_EQ(Content(**Get("latest"), {"big"}), right_);
  EXPECT_EQ(repository_.Reads(big_blob_).size(), 1u);
  EXPECT_NE(store_->kv().Get(StrCat("layer/", big_blob_.hex()))->value().find("data_digest"),
            std::string::npos);
}

TEST_F(ImageStoreTest, LayersWithDamagedFilesAreFetchedAgain) {
  ASSERT_TRUE(Durable(*Get("latest")).ok());
  std::filesystem::resize_file(StrCat(root_, "/layers/", big_blob_.hex(), "/data"), 512);
  OpenStore();
  ASSERT_TRUE(Get("latest").ok());
  EXPECT_EQ(repository_.Reads(big_blob_).size(), 2u);
}

TEST_F(ImageStoreTest, StrangersAreRemovedAtStart) {
  ASSERT_TRUE(Get("latest").ok());
  std::filesystem::create_directories(root_ + "/layers/tmp-dead/x");
  std::filesystem::create_directories(root_ + "/blobs/0123.00000000");
  OpenStore();
  EXPECT_EQ(FilesIn("layers"), 2u);
  EXPECT_EQ(FilesIn("blobs"), 0u);
}

TEST_F(ImageStoreTest, ASecondOwnerIsRefused) {
  const absl::StatusOr<std::unique_ptr<ImageStore>> second = ImageStore::Open({root_}, sources_);
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.status().message().find(std::to_string(getpid())), std::string::npos)
      << second.status();
}

TEST_F(ImageStoreTest, RemoveGivesBackWhatNobodyNeeds) {
  const std::string other = TarOf({{"other", "o"}});
  repository_.AddImage("second", {big_, other});
  ASSERT_TRUE(Durable(*Get("latest")).ok());
  ASSERT_TRUE(Durable(*Get("second")).ok());
  const absl::StatusOr<uint64_t> freed = store_->Remove(Request("latest").reference);
  ASSERT_TRUE(freed.ok()) << freed.status();
  EXPECT_GT(*freed, small_.size());
  EXPECT_EQ(store_->StateOf({small_blob_, small_blob_}), LayerState::kAbsent);
  EXPECT_EQ(store_->StateOf({big_blob_, big_blob_}), LayerState::kComplete);
  EXPECT_TRUE(absl::IsNotFound(store_->Remove(Request("latest").reference).status()));
}

TEST_F(ImageStoreTest, WhatIsHeldStays) {
  absl::StatusOr<ChainRef> chain = Get("latest");
  ASSERT_TRUE(Durable(*chain).ok());
  ASSERT_TRUE(store_->Remove(Request("latest").reference).ok());
  EXPECT_EQ(Content(**chain, {"etc", "small"}), "hello");
  EXPECT_EQ(FilesIn("layers"), 2u);
  chain = absl::CancelledError("");
  ASSERT_TRUE(store_->Collect().ok());
  EXPECT_EQ(FilesIn("layers"), 0u);
  EXPECT_EQ(FilesIn("chains"), 0u);
}

// Flips one bit in each record in turn: the image is restored by the same command, and the others
// are not touched.
TEST_F(ImageStoreTest, EveryKindOfRecordMayBeDamaged) {
  repository_.AddImage("other", {small_});
  ASSERT_TRUE(Durable(*Get("latest")).ok());
  ASSERT_TRUE(Durable(*Get("other")).ok());
  store_.reset();
  const std::vector<std::string> keys = KeysOf(root_ + "/db", "");
  for (const char* prefix : {"image/", "manifest/", "config/", "layer/", "chain/", "meta/"}) {
    EXPECT_FALSE(KeysOf(root_ + "/db", prefix).empty()) << prefix;
  }
  for (const std::string& key : keys) {
    SCOPED_TRACE(Printable(key));
    ASSERT_TRUE(DamageRecord(root_ + "/db", key));
    OpenStore();
    EXPECT_EQ(Counter("store_records_damaged"), 1u);
    for (const char* tag : {"latest", "other"}) {
      const absl::StatusOr<ChainRef> chain = Get(tag);
      ASSERT_TRUE(chain.ok()) << tag << " " << chain.status();
      ASSERT_TRUE(Durable(*chain).ok());
    }
    EXPECT_EQ(store_->ListImages(false)->size(), 2u);
    OpenStore();
    EXPECT_EQ(Counter("store_records_damaged"), 0u) << "it was replaced";
    EXPECT_EQ(store_->ListImages(false)->size(), 2u);
    store_.reset();
  }
}

TEST_F(ImageStoreTest, ADamagedImageCanBeRemoved) {
  ASSERT_TRUE(Durable(*Get("latest")).ok());
  for (const char* prefix : {"image/", "manifest/", "config/"}) {
    SCOPED_TRACE(prefix);
    ASSERT_TRUE(Durable(*Get("latest")).ok());
    store_.reset();
    ASSERT_TRUE(DamageRecord(root_ + "/db", KeysOf(root_ + "/db", prefix).at(0)));
    OpenStore();
    EXPECT_TRUE(store_->ListImages(false)->empty());
    ResolveRequest never = Request("latest");
    never.policy = PullPolicy::kNever;
    const absl::Status unknown = Resolve(std::move(never)).status();
    EXPECT_NE(ToStd(unknown.message()).find("imagefs pull"), std::string_view::npos) << unknown;
    const absl::Status removed = store_->Remove(Request("latest").reference).status();
    EXPECT_TRUE(removed.ok()) << removed;
    EXPECT_EQ(FilesIn("layers"), 0u);
    store_.reset();
    for (const char* gone : {"image/", "manifest/", "config/", "layer/"}) {
      EXPECT_TRUE(KeysOf(root_ + "/db", gone).empty()) << gone;
    }
    OpenStore();
  }
}

// The pull that fetches the documents again needs no layers.
TEST_F(ImageStoreTest, LayersOfAnImageWithDamagedDocumentsAreNotPruned) {
  ASSERT_TRUE(Durable(*Get("latest")).ok());
  for (const char* prefix : {"manifest/", "config/"}) {
    SCOPED_TRACE(prefix);
    ASSERT_TRUE(store_->Pin(Request("latest").reference).ok());
    store_.reset();
    ASSERT_TRUE(DamageRecord(root_ + "/db", KeysOf(root_ + "/db", prefix).at(0)));
    OpenStore();
    const absl::StatusOr<StoreUsage> usage = store_->Usage();
    ASSERT_TRUE(usage.ok()) << usage.status();
    EXPECT_EQ(usage->kinds.at(0).name, "layers-exclusive");
    EXPECT_EQ(usage->kinds.at(0).count, 2u);
    EXPECT_EQ(usage->kinds.at(0).reclaimable, 0u) << "it is pinned";
    ASSERT_TRUE(store_->Unpin(Request("latest").reference).ok());
    EXPECT_GT(store_->Usage()->kinds.at(0).reclaimable, 0u);
    EXPECT_EQ(store_->Prune({.all = true})->layers, 0u);
    EXPECT_EQ(store_->ListLayers().size(), 2u);
    ASSERT_TRUE(Durable(*Get("latest")).ok());
  }
}

TEST_F(ImageStoreTest, ADatabaseThatIsGoneIsNoticed) {
  ASSERT_TRUE(Durable(*Get("latest")).ok());
  EXPECT_FALSE(store_->kv().lost_records());
  store_.reset();
  std::filesystem::remove_all(root_ + "/db");
  OpenStore();
  EXPECT_TRUE(store_->kv().lost_records());
  EXPECT_TRUE(Get("latest").ok());
}

}  // namespace
}  // namespace imagefs
