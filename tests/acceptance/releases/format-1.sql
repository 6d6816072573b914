BEGIN TRANSACTION;
CREATE TABLE tidemill_claim (
    seq INTEGER PRIMARY KEY, queue INTEGER NOT NULL, priority INTEGER NOT NULL, due REAL NOT NULL,
    deliveries INTEGER NOT NULL, dedup INTEGER NOT NULL, owner TEXT NOT NULL, nonce TEXT NOT NULL);
CREATE TABLE tidemill_dedup (
    queue INTEGER, dedup TEXT, id TEXT NOT NULL,
    until REAL,  -- NULL while the message lives
    PRIMARY KEY (queue, dedup)) WITHOUT ROWID;
INSERT INTO "tidemill_dedup" VALUES(3,'once','3511d001fb92497bbc75e982f1a14d86',NULL);
CREATE TABLE tidemill_document_1 (rowid INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, key TEXT NOT NULL, etag INTEGER NOT NULL, body BLOB NOT NULL);
INSERT INTO "tidemill_document_1" VALUES(2,'t1','k1',2,X'7B226964223A227431222C226B6579223A226B31222C226E223A317D');
INSERT INTO "tidemill_document_1" VALUES(3,'t2','k2',3,X'7B226964223A227432222C226B6579223A226B32222C226E223A327D');
INSERT INTO "tidemill_document_1" VALUES(4,'t3','k0',4,X'7B226964223A227433222C226B6579223A226B30222C226E223A337D');
INSERT INTO "tidemill_document_1" VALUES(5,'t4','k1',5,X'7B226964223A227434222C226B6579223A226B31222C226E223A347D');
INSERT INTO "tidemill_document_1" VALUES(6,'t5','k2',6,X'7B226964223A227435222C226B6579223A226B32222C226E223A357D');
INSERT INTO "tidemill_document_1" VALUES(7,'b1','bad',7,X'7B226964223A226231222C226B6579223A22626164222C226E223A317D');
INSERT INTO "tidemill_document_1" VALUES(8,'b2','bad',8,X'7B226964223A226232222C226B6579223A22626164222C226E223A327D');
INSERT INTO "tidemill_document_1" VALUES(9,'t9','größer',10,X'7B226964223A227439222C226B6579223A226772C3B6C39F6572222C226E223A397D');
CREATE TABLE tidemill_letter (
    source TEXT, id TEXT, key TEXT, ord INTEGER NOT NULL, body BLOB, attempts INTEGER NOT NULL,
    reason TEXT NOT NULL, error TEXT NOT NULL, at REAL NOT NULL, headers TEXT NOT NULL, meta TEXT NOT NULL,
    UNIQUE (source, id));
INSERT INTO "tidemill_letter" VALUES('queue/jobs','f0b9411722094901b37f78647d670fd5',NULL,5,X'7B226964223A2264656164222C22686F77223A2272656A656374227D',1,'asked for','',1.79542295967116570477e+09,'{}','{"priority":0,"sent_at":1795422959.33965,"dedup":null}');
INSERT INTO "tidemill_letter" VALUES('feed/watch/3','7','bad',7,X'7B226964223A226231222C226B6579223A22626164222C226E223A317D',1,'failed 1 times: ValueError: the key is bad today','failed 1 times: ValueError: the key is bad today',1.79542296068076586727e+09,'{}','{"format":1,"partition":"3","kind":"put","document":"b1","before":null,"at":1795422959.337985}');
CREATE TABLE tidemill_log (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, source INTEGER NOT NULL, part INTEGER NOT NULL,
    kind INTEGER NOT NULL,  -- see feed.KINDS
    doc TEXT NOT NULL, key TEXT NOT NULL, at REAL NOT NULL, body BLOB, before BLOB);
INSERT INTO "tidemill_log" VALUES(1,1,3,0,'t0','k0',1.79542295933709430697e+09,X'7B226964223A227430222C226B6579223A226B30222C226E223A307D',NULL);
INSERT INTO "tidemill_log" VALUES(2,1,1,0,'t1','k1',1.79542295933709430697e+09,X'7B226964223A227431222C226B6579223A226B31222C226E223A317D',NULL);
INSERT INTO "tidemill_log" VALUES(3,1,3,0,'t2','k2',1.79542295933709430697e+09,X'7B226964223A227432222C226B6579223A226B32222C226E223A327D',NULL);
INSERT INTO "tidemill_log" VALUES(4,1,3,0,'t3','k0',1.79542295933709430697e+09,X'7B226964223A227433222C226B6579223A226B30222C226E223A337D',NULL);
INSERT INTO "tidemill_log" VALUES(5,1,1,0,'t4','k1',1.79542295933709430697e+09,X'7B226964223A227434222C226B6579223A226B31222C226E223A347D',NULL);
INSERT INTO "tidemill_log" VALUES(6,1,3,0,'t5','k2',1.79542295933709430697e+09,X'7B226964223A227435222C226B6579223A226B32222C226E223A357D',NULL);
INSERT INTO "tidemill_log" VALUES(7,1,3,0,'b1','bad',1.79542295933798503877e+09,X'7B226964223A226231222C226B6579223A22626164222C226E223A317D',NULL);
INSERT INTO "tidemill_log" VALUES(8,1,3,0,'b2','bad',1.79542296269873309132e+09,X'7B226964223A226232222C226B6579223A22626164222C226E223A327D',NULL);
INSERT INTO "tidemill_log" VALUES(9,1,3,1,'t0','k0',1.79542296270001387596e+09,NULL,X'7B226964223A227430222C226B6579223A226B30222C226E223A307D');
INSERT INTO "tidemill_log" VALUES(10,1,0,0,'t9','größer',1.79542296270078516003e+09,X'7B226964223A227439222C226B6579223A226772C3B6C39F6572222C226E223A397D',NULL);
CREATE TABLE tidemill_message (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, id TEXT NOT NULL, priority INTEGER NOT NULL,
    due REAL NOT NULL,  -- at first; then tidemill_ready knows
    sent_at REAL NOT NULL, key TEXT, dedup TEXT, attempt INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '',
    headers TEXT NOT NULL, body BLOB NOT NULL,
    UNIQUE (queue, id));
INSERT INTO "tidemill_message" VALUES(6,3,'461b1834a3604ebd95c09847ca84ab46',0,1.7954229627021634579e+09,1.7954229627021634579e+09,NULL,NULL,0,'','{"origin":"the first release"}',X'7B226964223A226C30227D');
INSERT INTO "tidemill_message" VALUES(7,3,'1ec93be5a7604d7db619ae7ddaa7394f',0,1.7954229627021634579e+09,1.7954229627021634579e+09,NULL,NULL,0,'','{"origin":"the first release"}',X'7B226964223A226C31227D');
INSERT INTO "tidemill_message" VALUES(8,3,'f18cdb2f47bb4ede9aca2fe4cb37cf9f',0,1.7954229627021634579e+09,1.7954229627021634579e+09,NULL,NULL,0,'','{"origin":"the first release"}',X'7B226964223A226C32227D');
INSERT INTO "tidemill_message" VALUES(9,3,'3511d001fb92497bbc75e982f1a14d86',3,1.7954229637034449578e+09,1.79542296270344495776e+09,NULL,'once',0,'','',X'7B226964223A22736F6F6E227D');
CREATE TABLE tidemill_meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO "tidemill_meta" VALUES('format',1);
INSERT INTO "tidemill_meta" VALUES('version',19);
CREATE TABLE tidemill_ready (
    queue INTEGER, priority INTEGER, due REAL, seq INTEGER, deliveries INTEGER NOT NULL, dedup INTEGER NOT NULL,
    PRIMARY KEY (queue, priority, due, seq)) WITHOUT ROWID;
INSERT INTO "tidemill_ready" VALUES(3,0,1.7954229627021634579e+09,6,0,0);
INSERT INTO "tidemill_ready" VALUES(3,0,1.7954229627021634579e+09,7,0,0);
INSERT INTO "tidemill_ready" VALUES(3,0,1.7954229627021634579e+09,8,0,0);
INSERT INTO "tidemill_ready" VALUES(3,3,1.7954229637034449578e+09,9,0,1);
CREATE TABLE tidemill_record (key TEXT PRIMARY KEY, version INTEGER NOT NULL, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "tidemill_record" VALUES('bell/feeds',1,'{"format":1,"count":1,"write":"06030c52b2a4bf32"}');
INSERT INTO "tidemill_record" VALUES('bell/queues',2,'{"format":1,"count":1,"write":"f96a12ed18ba7c48"}');
INSERT INTO "tidemill_record" VALUES('bell/timers',3,'{"format":1,"count":1,"write":"3156a0e4bc46db47"}');
INSERT INTO "tidemill_record" VALUES('lease/watch/0',7,'{"format":1,"owner":"c66461047c6af01740d1cd10","epoch":1,"nonce":"80a43bcfbeb35cc2","cursor":"0","crashes":0,"state":"running","next_owner":null,"running_one":null,"suspect":null,"parents":[],"source":"things","write":"c99766ef94cca555"}');
INSERT INTO "tidemill_record" VALUES('lease/watch/1',16,'{"format":1,"owner":"c66461047c6af01740d1cd10","epoch":1,"nonce":"9faa698489e6e9c7","cursor":"5","crashes":0,"state":"running","next_owner":null,"running_one":null,"suspect":null,"parents":[],"source":"things","write":"fe546c02e68d32d5"}');
INSERT INTO "tidemill_record" VALUES('lease/watch/2',9,'{"format":1,"owner":"c66461047c6af01740d1cd10","epoch":1,"nonce":"7832fbea55e537fd","cursor":"0","crashes":0,"state":"running","next_owner":null,"running_one":null,"suspect":null,"parents":[],"source":"things","write":"d277661655a06b1f"}');
INSERT INTO "tidemill_record" VALUES('lease/watch/3',17,'{"format":1,"owner":"c66461047c6af01740d1cd10","epoch":1,"nonce":"8bf51cf90a3d2303","cursor":"7","crashes":0,"state":"running","next_owner":null,"running_one":null,"suspect":null,"parents":[],"source":"things","write":"a57ca422f9f56774"}');
INSERT INTO "tidemill_record" VALUES('park/watch/0',11,'{"format":1,"write":"28becdc27f7204ec","epoch":1,"keys":{}}');
INSERT INTO "tidemill_record" VALUES('park/watch/1',12,'{"format":1,"write":"961d1e18f80986f6","epoch":1,"keys":{}}');
INSERT INTO "tidemill_record" VALUES('park/watch/2',13,'{"format":1,"write":"2ab79cec34b651c9","epoch":1,"keys":{}}');
INSERT INTO "tidemill_record" VALUES('park/watch/3',15,'{"format":1,"write":"d6d5f58185e8bcba","epoch":1,"keys":{"bad":{"first":7,"last":7,"count":1,"bytes":229,"state":"parked","due":1795422960.680597,"attempts":1,"error":"failed 1 times: ValueError: the key is bad today"}}}');
INSERT INTO "tidemill_record" VALUES('timer/often',19,'{"format":1,"schedule":"every 2000000 us","setter":"c66461047c6af01740d1cd10","last":1795422962.0,"state":"done","at":1795422962.0,"owner":"c66461047c6af01740d1cd10","nonce":"bdd131165582e84cba38561c9e2cb090","attempts":1,"past_due":false,"ran":"","error":"","write":"5892b9bdfedf5fbdb2168f1997d3bf87"}');
CREATE TABLE tidemill_replaced (  -- what an INSERT may be about to replace, see capture
    source INTEGER, doc TEXT, key TEXT NOT NULL, before BLOB, PRIMARY KEY (source, doc)) WITHOUT ROWID;
CREATE TABLE tidemill_source (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, partitions INTEGER NOT NULL DEFAULT 0,
    backfill TEXT, backfill_until TEXT,  -- see backfill
    UNIQUE (kind, name));
INSERT INTO "tidemill_source" VALUES(1,'feed','things',4,NULL,NULL);
INSERT INTO "tidemill_source" VALUES(2,'queue','jobs',0,NULL,NULL);
INSERT INTO "tidemill_source" VALUES(3,'queue','later',0,NULL,NULL);
INSERT INTO "tidemill_source" VALUES(4,'queue','outbox',0,NULL,NULL);
CREATE TABLE tidemill_trimmed (
    source INTEGER, part INTEGER, seq INTEGER NOT NULL, PRIMARY KEY (source, part)) WITHOUT ROWID;
CREATE INDEX tidemill_log_part ON tidemill_log (source, part);
CREATE TRIGGER tidemill_message_sent AFTER INSERT ON tidemill_message BEGIN
    INSERT INTO tidemill_ready VALUES (NEW.queue, NEW.priority, NEW.due, NEW.seq, 0, NEW.dedup IS NOT NULL);
END;
CREATE INDEX tidemill_dedup_until ON tidemill_dedup (until) WHERE until IS NOT NULL;
CREATE INDEX tidemill_letter_order ON tidemill_letter (source, ord);
CREATE INDEX "tidemill_document_1_key" ON tidemill_document_1 (key, id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('tidemill_log',10);
INSERT INTO "sqlite_sequence" VALUES('tidemill_message',9);
COMMIT;
